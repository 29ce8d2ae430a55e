"""Charts of training: losses and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from repa.report.charts import Chart, file_name
from repa.report.curves import curves
from repa.report.evaluations import values
from repa.report.groups import Group
from repa.report.runs import RunRecord

STEP = "training step"
TRAINING = {  # key in metrics.jsonl: title, axis
    "denoising_loss": ("Denoising loss over training", "denoising loss"),
    "alignment_loss": ("Alignment loss over training", "alignment loss (negative cosine)"),
    "images_per_second": ("Training speed", "images per second"),
}


def training_charts(groups: Sequence[Group]) -> list[Chart]:
    """Losses and speed over steps."""
    charts = []
    for key, (title, label) in TRAINING.items():

        def points(run: RunRecord, key: str = key) -> Mapping[int, float]:
            return values(run.metrics, key)

        series = curves(groups, points)
        if series:
            note = loss_note(groups) if key == "denoising_loss" else ""
            charts.append(Chart(file_name("training", key), title, STEP, label, series, note=note))
    return charts


def loss_note(groups: Sequence[Group]) -> str:
    """What to mind where denoising losses are of different things."""
    objectives = {group.name: group.runs[0].objective for group in groups}
    if len(set(objectives.values())) == 1:
        return ""
    named = "; ".join(f"{name}: {objective}" for name, objective in objectives.items())
    return f"Losses of different objectives are not to be compared. {named}."
