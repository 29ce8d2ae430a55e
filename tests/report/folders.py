"""Runs' folders and rows as the commands leave them, with numbers such as the paper's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from repa.config import TrainOptions

STEPS = (50_000, 100_000, 200_000, 400_000)
FIDS = {"plain": (91.2, 61.3, 43.9, 33.0), "repa": (78.2, 41.7, 30.9, 24.4)}
TIMES, DEPTHS, ALIGNED = (0.1, 0.5, 0.9), range(1, 13), 4
VERSIONS = {"repa": "0.1.0", "torch": "2.6.0", "python": "3.11.2"}


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(folder: Path, enc_type: str = "none", **options: Any) -> Path:
    """A run's folder with its configuration and a few lines of training."""
    folder.mkdir(parents=True)
    values = {"model": "SiT-B/2", "data_dir": "data/imagenet", "encoder_depth": ALIGNED}
    values |= {"exp_name": folder.name, "enc_type": enc_type, "max_train_steps": 400_000}
    recipe = TrainOptions.model_validate(values | options).model_dump(mode="json")
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    aligned = enc_type != "none"
    lines = []
    for step in range(10_000, 400_001, 10_000):
        loss = 0.8 + 0.3 * math.exp(-step / 40_000) + 0.004 * math.sin(step)
        alignment = -0.75 + 0.5 * math.exp(-step / 60_000)
        line = {"step": step, "seconds": step / (5 - aligned), "loss": loss}
        line |= {"denoising_loss": loss - 0.002 * aligned}
        line |= {"alignment_loss": alignment} if aligned else {}
        lines.append(line | {"grad_norm": 0.3, "images_per_second": 1280.0 - 256 * aligned})
    write_lines(folder / "metrics.jsonl", lines)
    return folder


def evaluation(step: int, fid: float, **more: Any) -> dict[str, Any]:
    line = {"step": step, "network": "inception", "samples": 5000, "fid": fid}
    return line | {"sfid": 7.2, "precision": 0.55, "recall": 0.63} | more


def result(step: int, distance: float, reference: str = "train", **more: Any) -> dict[str, Any]:
    """What `repa evaluate` writes about 10,000 samples of a checkpoint."""
    drawn = {"model": "SiT-S/2", "step": step, "mode": "sde", "num_steps": 50, "heun": False,
             "cfg_scale": 1.0, "guidance_low": 0.0, "guidance_high": 1.0, "seed": 0}  # fmt: skip
    return {
        "network": "efficientnet-lite2",
        "network_weights": "0123456789abcdef",
        "samples": {"path": f"{step}.npz", "sha256": "5a", "count": 10_000, "drawn": drawn},
        "reference": {"path": f"data/{reference}", "sha256": reference, "count": 50_000,
                      "stored_statistics": False},
        "frechet_distance": distance,
        "precision": 0.6,
        "neighbors": 3,
        "seed": 0,
        "versions": VERSIONS,
    } | more  # fmt: skip


def write_results(run: Path, results: list[dict[str, Any]]) -> None:
    """As files of a run's `evaluations/`, named by a number."""
    (run / "evaluations").mkdir(exist_ok=True)
    for number, content in enumerate(results):
        (run / "evaluations" / f"{number:04d}.json").write_text(json.dumps(content))


def probe_row(name: str, depth: int, time: float = 0.5, step: int = 400_000) -> dict[str, Any]:
    aligned = name != "plain"
    peak, top = (ALIGNED + 2, 0.62) if aligned else (6, 0.49)
    shape = math.exp(-(((depth - peak) / 5) ** 2)) * (1 - 0.5 * abs(time - 0.35))
    top1 = top * shape * (step / 400_000) ** 0.15
    row = {
        "subject": "model",
        "name": name,
        "run": f"somewhere/else/{name}",
        "checkpoint": f"somewhere/else/{name}/checkpoints/{step:07d}",
        "model": "SiT-B/2",
        "step": step,
        "weights": "ema",
        "fingerprint": "0123456789abcdef",
        "encoder_depth": ALIGNED if aligned else None,
        "depth": depth,
        "time": time,
    }
    return row | {"top1": top1, "top5": min(1, 1.4 * top1), "learning_rate": 0.003,
                  "weight_decay": 0.0}  # fmt: skip


def align_row(name: str, depth: int, time: float = 0.5, step: int = 400_000) -> dict[str, Any]:
    row = probe_row(name, depth, time, step)
    value = 0.6 * row["top1"]
    for key in ("top1", "top5", "learning_rate", "weight_decay"):
        del row[key]
    found = {"cknna": value, "cka": value + 0.2, "mutual_knn": value - 0.05}
    return row | {"encoder": "dinov2-vit-b"} | found
