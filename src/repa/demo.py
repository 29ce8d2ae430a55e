"""`repa demo`: the whole job on emoji, plain and with REPA, in minutes on two CPU cores.

It is a user's session in Python: prepare, train twice, sample, evaluate, probe, align, report.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repa.analysis.align import run_align
from repa.analysis.probe import run_probe
from repa.autoencoders import Pixels
from repa.config import (
    AlignOptions,
    DemoOptions,
    EvaluateOptions,
    ProbeOptions,
    SampleOptions,
    TrainOptions,
)
from repa.data import PreparedDataset
from repa.data.prepare import prepare
from repa.data.share import Work, spread
from repa.data.sources import open_source
from repa.devices import pick_device, pick_precision
from repa.encoders import create_encoder
from repa.evaluation.evaluate import evaluate
from repa.evaluation.networks import create_network
from repa.evaluation.reference import load_reference
from repa.evaluation.statistics import save_reference
from repa.files import read_json_lines, write_atomically
from repa.report.comparison import Comparison
from repa.report.page import write_report
from repa.report.runs import read_analysis, read_runs
from repa.sampling import save_grid
from repa.sampling.command import run_sample
from repa.training import train

RESOLUTION = 32
TARGET, JUDGE = "efficientnet-lite0", "efficientnet-lite2"  # aligned to one, judged by another
RUNS = {"baseline": "none", "repa": TARGET}  # name: --enc-type
GRID_SIZE, ENCODER_DEPTH = 8, 3
CHECKPOINTS = 4  # points of the curves over training
MIDDLE = 0.5  # the time of these curves, and of the summary
STEPS = 800  # unless told otherwise
SAMPLING_STEPS = 25
EVALUATED = 200  # images sampled at each of these points
BATCH = 100  # images sampled or judged at a time
REFERENCE = Path("data") / "judged.npz"
SHOWN = 32  # real images on the page, as many as there are samples

LEAD = (
    "Two small diffusion transformers learned to draw emoji. Weights, data order, noise and number "
    "of steps were the same; one was also asked that its hidden state after block {depth} resemble "
    "the patch features that {target} sees in the clean image. Another network, {judge}, judged "
    "the samples. Labels are Unicode's nine categories; probes are tested on emoji that neither "
    "model has seen."
)
CREDIT = "Emoji: Twemoji, © Twitter and contributors, CC-BY 4.0."

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
JUDGED = ("frechet_distance", "precision", "recall", "inception_score")


def run_demo(options: DemoOptions) -> None:
    """Prepares emoji, trains twice, samples, measures, writes `summary.json` and `report.html`.

    Raises:
        RepaError: if the packages of the `demo` extra are missing, or `--out` holds another demo.
    """
    started = time.perf_counter()
    device = pick_device(options.device)
    out = options.out

    print(f"1/4 prepare: emoji at {RESOLUTION} px and their {TARGET} tokens", flush=True)
    data, val = (_prepare(out, split, device) for split in ("train", "val"))
    _keep_reference(out, device)

    print(f"2/4 train: the same model twice, {_steps(options)} steps", flush=True)
    runs = {name: train(_train_options(options, name, device)) for name in RUNS}

    print(f"3/4 sample: {options.num_samples} images from each", flush=True)
    for name in RUNS:
        run_sample(_sample_options(options, name, data, device))

    print(f"4/4 measure: {JUDGE} judges the samples; hidden states are probed", flush=True)
    judged = {name: evaluate(_evaluate_options(options, name)) for name in RUNS}
    analyzed = _analyze(options)
    summary: dict[str, Any] = {
        name: _summary(runs[name], judged[name] or {}, analyzed) for name in RUNS
    }
    summary["settings"] = {
        "steps": _steps(options),
        "seed": options.seed,
        "samples": options.num_samples,
        "training_images": len(data),
        "validation_images": len(val),
        "target": TARGET,
        "judge": JUDGE,
        "encoder_depth": ENCODER_DEPTH,
        "device": str(device),
        "precision": pick_precision("auto", device),
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_atomically(out / "summary.json", json.dumps(summary, indent=1).encode() + b"\n")
    page = _report(options, list(runs.values()), data)
    _print_table(summary)
    print(f"\nreport: {page.resolve()}")


def _steps(options: DemoOptions) -> int:
    return options.steps or STEPS


def _prepare(out: Path, split: str, device: torch.device) -> PreparedDataset:
    encoder = create_encoder(TARGET, RESOLUTION, GRID_SIZE).to(device)
    source, dest = open_source(f"twemoji-{split}"), out / "data" / split
    prepare(source, dest, RESOLUTION, Pixels(), {TARGET: encoder}, work=Work(device=device))
    return PreparedDataset(dest)


def _keep_reference(out: Path, device: torch.device) -> None:
    """What the judge says of the training images, once for all evaluations."""
    if (out / REFERENCE).exists():
        return
    network = create_network(JUDGE).to(device)
    reference = load_reference(out / "data" / "train", network, device, BATCH)
    save_reference(out / REFERENCE, reference, network)


def _train_options(options: DemoOptions, name: str, device: torch.device) -> TrainOptions:
    """The two runs differ in `enc_type` alone: same seed, data order, noise and steps."""
    return TrainOptions(
        exp_name=name,
        output_dir=options.out / "runs",
        data_dir=options.out / "data" / "train",
        model="SiT-Ti/4",
        enc_type=RUNS[name],
        encoder_depth=ENCODER_DEPTH,
        projector_dim=512,
        max_train_steps=_steps(options),
        batch_size=32,
        learning_rate=1e-3,
        ema_decay=0.99,
        seed=options.seed,
        device=options.device,
        logging_steps=max(1, _steps(options) // 30),
        checkpointing_steps=max(1, _steps(options) // CHECKPOINTS),
        sampling_steps=max(1, _steps(options) // CHECKPOINTS),
        eval_every=max(1, _steps(options) // CHECKPOINTS),
        eval_samples=min(EVALUATED, options.num_samples),
        eval_reference=options.out / REFERENCE,
        eval_network=JUDGE,
        eval_num_steps=SAMPLING_STEPS,
        eval_batch_size=BATCH,
    )


def _sample_options(
    options: DemoOptions, name: str, data: PreparedDataset, device: torch.device
) -> SampleOptions:
    """Classes are as frequent as in the data, and the same at the same places for both runs."""
    count = options.num_samples
    labels = np.resize(data.labels[spread(len(data), count)], count)
    classes = options.out / "samples" / "classes.txt"
    classes.parent.mkdir(parents=True, exist_ok=True)
    classes.write_text("".join(f"{label}\n" for label in labels))
    return SampleOptions(
        ckpt=options.out / "runs" / name,
        sample_dir=options.out / "samples" / name,
        num_fid_samples=count,
        classes=str(classes),
        num_steps=SAMPLING_STEPS,
        seed=options.seed,
        device=options.device,
        per_proc_batch_size=BATCH,
        mixed_precision="auto",
        overwrite=True,  # of a demo with another number of samples
    )


def _evaluate_options(options: DemoOptions, name: str) -> EvaluateOptions:
    return EvaluateOptions(
        samples=options.out / "samples" / f"{name}.npz",
        reference=options.out / REFERENCE,
        network=JUDGE,
        batch_size=BATCH,
        output=options.out / "runs" / name / "evaluation.json",
        device=options.device,
        overwrite=True,  # of a demo with another number of samples
    )


def _analyze(options: DemoOptions) -> dict[str, dict[str, Any]]:
    """Probes and similarities: all checkpoints in the middle, and the last ones at more times."""
    common: dict[str, Any] = {
        "ckpt": [options.out / "runs" / name for name in RUNS],
        "enc_type": TARGET,
        "output_dir": options.out / "analysis",
        "mixed_precision": "auto",
        "device": options.device,
        "overwrite": True,  # of a demo on another device
    }
    train_dir, val_dir = options.out / "data" / "train", options.out / "data" / "val"
    found: dict[str, dict[str, Any]] = {}
    for series in ({"every_checkpoint": True, "times": MIDDLE}, {"times": (0.2, 0.8)}):
        values = common | series
        probes = run_probe(
            ProbeOptions.model_validate(values | {"data_dir": train_dir, "val_dir": val_dir})
        )
        alignments = run_align(AlignOptions.model_validate(values | {"data_dir": val_dir}))
        found = {"probe": probes or {}, "align": alignments or {}}  # both: there is one process
    return found


def _summary(
    run: Path, judged: Mapping[str, Any], analyzed: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    log = read_json_lines(run / "metrics.jsonl")
    last = log[-1]
    rates = sorted(line["images_per_second"] for line in log)

    def at_aligned_depth(kind: str, metric: str) -> float:
        return next(
            row[metric]
            for row in analyzed[kind]["rows"]
            if row.get("run") == str(run.resolve())
            and (row["step"], row["depth"], row["time"]) == (last["step"], ENCODER_DEPTH, MIDDLE)
        )

    return {
        "steps": last["step"],
        "final_losses": {k: v for k, v in last.items() if k.endswith("loss")},
        "images_per_second": rates[len(rates) // 2],
        "training_seconds": last["seconds"],
        **{metric: judged[metric] for metric in JUDGED},
        "linear_probe_accuracy": at_aligned_depth("probe", "top1"),
        "cknna": at_aligned_depth("align", "cknna"),
    }


def _report(options: DemoOptions, runs: list[Path], data: PreparedDataset) -> Path:
    real = options.out / "samples" / "real.png"
    save_grid(torch.from_numpy(data.images(spread(len(data), SHOWN))), real)
    records = read_runs(runs)
    return write_report(
        Comparison(records, read_analysis(options.out / "analysis", records)),
        options.out,
        title=f"What representation alignment did in {_steps(options)} steps",
        lead=LEAD.format(depth=ENCODER_DEPTH, target=TARGET, judge=JUDGE),
        credit=CREDIT,
        real_images=real,
    )


def _print_table(summary: Mapping[str, Any]) -> None:
    print("\n" + " " * 30 + "".join(f"{name:>12}" for name in RUNS))
    losses = [summary[name]["final_losses"]["denoising_loss"] for name in RUNS]
    print(f"{'denoising loss':30}" + "".join(f"{loss:>12.4f}" for loss in losses))
    for key, (title, form, higher_is_better) in METRICS.items():
        title = f"{title} {'↑' if higher_is_better else '↓'}"
        print(f"{title:30}" + "".join(f"{form.format(summary[name][key]):>12}" for name in RUNS))
