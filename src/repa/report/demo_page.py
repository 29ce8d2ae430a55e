"""The demo's report: one HTML file that needs nothing else."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

import repa
from repa.data.format import write_atomically
from repa.report.figures import Curve, curves_svg, grid_png

TITLES = {"baseline": "plain", "repa": "REPA"}

# key in the summary: (title, format, whether higher is better)
METRICS = {
    "frechet_distance": ("Fréchet distance", "{:.1f}", False),
    "precision": ("precision", "{:.3f}", True),
    "recall": ("recall", "{:.3f}", True),
    "inception_score": ("inception score", "{:.2f}", True),
    "linear_probe_accuracy": ("linear-probe accuracy", "{:.1%}", True),
    "cknna": ("CKNNA with the target", "{:.4f}", True),
    "images_per_second": ("training speed, images/s", "{:.0f}", True),
}

Lines = Sequence[Mapping[str, float]]


def write_demo_report(
    path: Path,
    summary: Mapping[str, Any],
    logs: Mapping[str, Lines],
    history: Mapping[str, Lines],
    samples: Mapping[str, Tensor],
    real: Tensor,
) -> None:
    """Writes the report of a plain and an aligned run.

    Args:
        path: the HTML file.
        summary: what `summary.json` holds: metrics by run name, and `settings`.
        logs: lines of each run's metrics.jsonl.
        history: probe accuracy and CKNNA of each run's checkpoints.
        samples: images (N, 3, R, R) uint8 of each run, from the same noise and classes.
        real: training images (N, 3, R, R), uint8.
    """
    settings = summary["settings"]

    def figure(source: Mapping[str, Lines], key: str, label: str) -> str:
        curves = {TITLES[name]: _curve(lines, key) for name, lines in source.items()}
        svg = curves_svg(curves, "training step", label)
        return f'<figure><img src="{svg}" alt="{label} over training"></figure>'

    grids = {TITLES[name]: images for name, images in samples.items()} | {"real images": real}
    template = resources.files("repa.report").joinpath("demo_page.html").read_text("utf-8")
    page = Template(template).substitute(
        verdict=escape(_verdict(summary)),
        steps=settings["steps"],
        target=escape(settings["target"]),
        judge=escape(settings["judge"]),
        depth=settings["encoder_depth"],
        table=_table(summary),
        grids="".join(
            f'<figure><figcaption>{title}</figcaption><img class="pixels" src="{grid_png(images)}" '
            f'alt="{len(images)} {title} images"></figure>'
            for title, images in grids.items()
        ),
        losses=figure(logs, "denoising_loss", "denoising loss")
        + figure(logs, "alignment_loss", "alignment loss (negative cosine)"),
        alignment=figure(history, "linear_probe_accuracy", "linear-probe accuracy")
        + figure(history, "cknna", "CKNNA with the target"),
        settings="".join(
            f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(str(value))}</td></tr>"
            for name, value in (settings | _environment()).items()
        ),
    )
    write_atomically(path, page.encode())


def _curve(lines: Lines, key: str) -> Curve:
    points = [(line["step"], line[key]) for line in lines if key in line]
    return [x for x, _ in points], [y for _, y in points]


def _verdict(summary: Mapping[str, Any]) -> str:
    """One sentence from the numbers, whichever way they fall."""
    plain, aligned = summary["baseline"], summary["repa"]
    parts = []
    for key in ("frechet_distance", "linear_probe_accuracy", "cknna"):
        title, form, higher_is_better = METRICS[key]
        better = (aligned[key] > plain[key]) == higher_is_better and aligned[key] != plain[key]
        word = "better" if better else "not better"
        parts.append(f"{title} {word} ({form.format(plain[key])} → {form.format(aligned[key])})")
    return "With alignment, plain → REPA: " + "; ".join(parts) + "."


def _table(summary: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{TITLES[name]}</th>" for name in TITLES)
    rows = [f"<tr><th>metric</th>{head}</tr>"]
    for key, (title, form, higher_is_better) in METRICS.items():
        values = [summary[name][key] for name in TITLES]
        best = form.format(max(values) if higher_is_better else min(values))
        shown = [form.format(value) for value in values]
        cells = "".join(
            f"<td{' class=best' if text == best and len(set(shown)) > 1 else ''}>{text}</td>"
            for text in shown
        )
        arrow = "↑" if higher_is_better else "↓"
        rows.append(f"<tr><th>{title[0].upper()}{title[1:]} {arrow}</th>{cells}</tr>")
    return "".join(rows)


def _environment() -> dict[str, str]:
    return {
        "repa": repa.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
