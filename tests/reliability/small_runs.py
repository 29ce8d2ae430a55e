"""Training runs of a second, and all that they have computed."""

import json
from pathlib import Path

import numpy as np

from repa.cli import main
from repa.files import read_json_lines

STEPS = 12
MODEL = "--model SiT-Ti/8 --enc-type efficientnet-lite0 --encoder-depth 2 --projector-dim 32"
TRAINING = "--batch-size 8 --learning-rate 1e-3 --ema-decay 0.9 --mixed-precision no --device cpu"
FILES = "--report-to none --logging-steps 5 --checkpointing-steps 3 --sampling-steps 12"
OPTIONS = f"{MODEL} {TRAINING} {FILES}".split()
SAMPLING = ["--mode", "sde", "--num-steps", "3", "--num-fid-samples", "4", "--device", "cpu"]
CLOCK = ("seconds", "images_per_second")  # in the log, besides what is computed


def command(data: Path, run: Path, *more: str, steps: int = STEPS) -> list[str]:
    """Arguments of `repa` for a run in that folder; a line of its log is of several checkpoints."""
    place = ["--data-dir", str(data), "--output-dir", str(run.parent), "--exp-name", run.name]
    return ["train", *OPTIONS, "--max-train-steps", str(steps), *place, *more]


def contents(run: Path) -> dict[str, object]:
    """All that a run has computed, without what the clock says, and samples of it."""
    found: dict[str, object] = {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.suffix in (".safetensors", ".png")
    }
    for path in sorted(run.rglob("state.json")):
        state = json.loads(path.read_text())
        del state["progress"]["seconds"], state["progress"]["unwritten_seconds"]
        found[str(path.relative_to(run))] = state | {"options": {}}  # with the run's name
    lines = read_json_lines(run / "metrics.jsonl")
    found["metrics"] = [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]
    samples = run.with_name(run.name + "-samples")
    assert main(["sample", "--ckpt", str(run), "--sample-dir", str(samples), *SAMPLING]) == 0
    found["samples"] = np.load(samples.with_suffix(".npz"))["arr_0"].tobytes()
    return found
