"""`repa demo`: the whole job on emoji, plain and with REPA, in minutes on two CPU cores."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from repa.analysis import cknna, linear_probe
from repa.analysis.hidden_states import pooled_hidden_states
from repa.autoencoders import Pixels
from repa.checkpoints import list_checkpoints, load_model
from repa.config import DemoOptions, Precision, SamplerOptions, TrainOptions
from repa.data import PreparedDataset
from repa.data.format import write_atomically
from repa.data.prepare import prepare
from repa.data.share import Work, spread
from repa.data.sources import open_source
from repa.devices import pick_device, pick_precision
from repa.diffusion import Interpolant
from repa.encoders import create_encoder
from repa.evaluation.compare import compare
from repa.evaluation.extract import extract
from repa.evaluation.images import ImageSet
from repa.evaluation.networks import create_network
from repa.evaluation.statistics import Reference
from repa.report.demo_page import METRICS, write_demo_report
from repa.sampling import generate_images, save_grid
from repa.training import train
from repa.training.log import read_metrics

RESOLUTION = 32
TARGET, JUDGE = "efficientnet-lite0", "efficientnet-lite2"  # aligned to one, judged by another
JUDGED = ("frechet_distance", "precision", "recall", "inception_score")
RUNS = {"baseline": "none", "repa": TARGET}  # name: --enc-type
GRID_SIZE, ENCODER_DEPTH = 8, 3
CHECKPOINTS = 4  # points of the curves over training
SAMPLER = SamplerOptions(num_steps=25)
BATCH = 100  # images sampled or judged at a time
SHOWN = 48  # images in the report's grids


@dataclass(frozen=True)
class _Data:
    """The two splits with the target's average-pooled tokens and labels of each."""

    train: PreparedDataset
    val: PreparedDataset

    @property
    def splits(self) -> tuple[PreparedDataset, PreparedDataset]:
        return self.train, self.val

    def labels(self) -> tuple[Tensor, Tensor]:
        train, val = (torch.tensor(split.labels) for split in self.splits)
        return train, val

    def val_targets(self) -> Tensor:
        """(N, D): what CKNNA compares hidden states with."""
        every = range(len(self.val))
        return torch.cat([self.val.features(TARGET, [i]).mean(1) for i in every])


def run_demo(options: DemoOptions) -> None:
    """Prepares emoji, trains twice, samples, measures, writes `summary.json` and `report.html`.

    Raises:
        RepaError: if the packages of the `demo` extra are missing, or `--out` holds another demo.
    """
    started = time.perf_counter()
    device = pick_device(options.device)
    precision = pick_precision("auto", device)
    out = options.out

    print(f"1/4 prepare: emoji at {RESOLUTION} px and their {TARGET} tokens", flush=True)
    data = _prepare(out, device)

    print(f"2/4 train: the same model twice, {options.steps} steps", flush=True)
    runs = {name: train(_train_options(options, out, name, device)) for name in RUNS}

    print(f"3/4 sample: {options.num_samples} images from each", flush=True)
    samples = {
        name: _sample(runs[name], options, data, device, precision, out / "samples" / name)
        for name in RUNS
    }

    print(f"4/4 measure: {JUDGE} judges the samples; hidden states are probed", flush=True)
    judged = _judge(data.train, samples, device)
    history = {name: _probe_over_training(runs[name], data, device, precision) for name in RUNS}

    logs = {name: read_metrics(runs[name] / "metrics.jsonl") for name in RUNS}
    summary: dict[str, Any] = {
        name: _summary_of(logs[name], judged[name], history[name]) for name in RUNS
    }
    summary["settings"] = {
        "steps": options.steps,
        "seed": options.seed,
        "samples": options.num_samples,
        "training_images": len(data.train),
        "validation_images": len(data.val),
        "target": TARGET,
        "judge": JUDGE,
        "encoder_depth": ENCODER_DEPTH,
        "device": str(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_atomically(out / "summary.json", json.dumps(summary, indent=1).encode() + b"\n")
    report = out / "report.html"
    shown = spread(len(data.train), SHOWN)
    write_demo_report(
        report,
        summary,
        logs,
        history,
        {name: images[spread(len(images), SHOWN)] for name, images in samples.items()},
        torch.from_numpy(data.train.images(shown)),
    )
    _print_table(summary)
    print(f"\nreport: {report.resolve()}")


def _prepare(out: Path, device: torch.device) -> _Data:
    encoder = create_encoder(TARGET, RESOLUTION, GRID_SIZE).to(device)
    for split in ("train", "val"):
        source, dest = open_source(f"twemoji-{split}"), out / "data" / split
        prepare(source, dest, RESOLUTION, Pixels(), {TARGET: encoder}, work=Work(device=device))
    return _Data(*(PreparedDataset(out / "data" / split) for split in ("train", "val")))


def _train_options(
    options: DemoOptions, out: Path, name: str, device: torch.device
) -> TrainOptions:
    """The two runs differ in `enc_type` alone: same seed, data order, noise and steps."""
    return TrainOptions(
        exp_name=name,
        output_dir=out / "runs",
        data_dir=out / "data" / "train",
        model="SiT-Ti/4",
        enc_type=RUNS[name],
        fused_attn=device.type != "cpu",  # slower there: benchmarks/cpu_choices.py
        encoder_depth=ENCODER_DEPTH,
        projector_dim=512,
        max_train_steps=options.steps,
        batch_size=32,
        learning_rate=1e-3,
        ema_decay=0.99,
        seed=options.seed,
        device=options.device,
        logging_steps=max(1, options.steps // 30),
        checkpointing_steps=max(1, options.steps // CHECKPOINTS),
        sampling_steps=max(1, options.steps // CHECKPOINTS),
    )


def _sample(
    run: Path,
    options: DemoOptions,
    data: _Data,
    device: torch.device,
    precision: Precision,
    path: Path,
) -> Tensor:
    """Images (N, 3, R, R) uint8 whose classes are as frequent as in the data; also saved."""
    model, _ = load_model(run)
    labels = np.resize(data.train.labels[spread(len(data.train), options.num_samples)],
                       options.num_samples)  # fmt: skip
    batches = generate_images(
        model.to(device), Pixels(), labels, SAMPLER, options.seed, Interpolant(), BATCH, precision
    )
    total = -(-options.num_samples // BATCH)
    images = torch.cat(list(tqdm(batches, run.name, total, unit="batch")))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_grid(images[spread(len(images), SHOWN)], path.with_suffix(".png"))
    np.savez(path.with_suffix(".npz"), arr_0=images.permute(0, 2, 3, 1).numpy())
    return images


def _judge(
    real: PreparedDataset, samples: dict[str, Tensor], device: torch.device
) -> dict[str, dict[str, float]]:
    """The metrics of each run's samples against the training images."""
    network = create_network(JUDGE).to(device)
    batches, total = ImageSet(real.folder).batches(BATCH), -(-len(real) // BATCH)
    features = extract(network, tqdm(batches, "real images", total, unit="batch"), device)
    reference = Reference.fit(features, device)
    return {
        name: compare(
            reference,
            extract(network, tqdm(images.split(BATCH), name), device),
            JUDGED,
            device=device,
        )
        for name, images in samples.items()
    }


def _probe_over_training(
    run: Path, data: _Data, device: torch.device, precision: Precision
) -> list[dict[str, float]]:
    """Probe accuracy and CKNNA of the hidden state at `ENCODER_DEPTH`, for each checkpoint."""
    targets, (train_labels, val_labels) = data.val_targets(), data.labels()
    history = []
    for checkpoint in tqdm(list_checkpoints(run), f"{run.name}: checkpoints"):
        model, state = load_model(checkpoint)
        train_states, val_states = (
            pooled_hidden_states(
                model.to(device),
                split,
                range(len(split)),
                ENCODER_DEPTH,
                Interpolant(),
                precision=precision,
            )
            for split in data.splits
        )
        history.append(
            {
                "step": state.step,
                "linear_probe_accuracy": linear_probe(
                    train_states, train_labels, val_states, val_labels
                ),
                # Rows of unit length, as published: else the longest are everyone's neighbors.
                "cknna": cknna(F.normalize(val_states), F.normalize(targets)),
            }
        )
    return history


def _summary_of(
    log: list[dict[str, float]], judged: dict[str, float], history: list[dict[str, float]]
) -> dict[str, Any]:
    last = log[-1]
    rates = sorted(line["images_per_second"] for line in log)
    return {
        "steps": last["step"],
        "final_losses": {k: v for k, v in last.items() if k.endswith("loss")},
        "images_per_second": rates[len(rates) // 2],
        "training_seconds": last["seconds"],
        **judged,
        "linear_probe_accuracy": history[-1]["linear_probe_accuracy"],
        "cknna": history[-1]["cknna"],
    }


def _print_table(summary: dict[str, Any]) -> None:
    print("\n" + " " * 30 + "".join(f"{name:>12}" for name in RUNS))
    losses = [summary[name]["final_losses"]["denoising_loss"] for name in RUNS]
    print(f"{'denoising loss':30}" + "".join(f"{loss:>12.4f}" for loss in losses))
    for key, (title, form, higher_is_better) in METRICS.items():
        title = f"{title} {'↑' if higher_is_better else '↓'}"
        print(f"{title:30}" + "".join(f"{form.format(summary[name][key]):>12}" for name in RUNS))
