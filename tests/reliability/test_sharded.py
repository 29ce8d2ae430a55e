"""Sharded runs (`--fsdp`) and plain ones are the same run: either goes on where the other stopped.

Sharded runs have two processes, plain ones are of this process, so that counts differ as well.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from repa.checkpoints import read_state
from repa.config import TrainOptions
from repa.files import read_json_lines
from repa.training import train
from repa.training.sharding import can_shard

pytestmark = [
    pytest.mark.promise("4 several processes"),
    pytest.mark.skipif(not can_shard(torch.device("cpu")), reason="no FSDP2 on the CPU"),
]
PARTS = ("model", "ema", "heads", "optimizer")
MIDDLE, END = "0000002", "0000004"


@pytest.fixture(scope="module")
def run(emoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains to step 4, from another run's step 2 or from the start; returns the run's folder."""
    runs = tmp_path_factory.mktemp("runs")

    def start(name: str, fsdp: bool, after: Path | None = None) -> Path:
        if after is not None:
            folder = Path("checkpoints") / MIDDLE
            shutil.copytree(after / folder, runs / name / folder)
        options = {
            "exp_name": name,
            "output_dir": runs,
            "data_dir": emoji_dir,
            "model": "SiT-Ti/8",
            "enc_type": "efficientnet-lite0",
            "encoder_depth": 2,
            "projector_dim": 32,
            "max_train_steps": 4,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "ema_decay": 0.9,
            "mixed_precision": "no",
            "device": "cpu",
            "report_to": "none",
            "logging_steps": 1,
            "checkpointing_steps": 2,
        }
        if fsdp:
            launch_sharded(options)
        else:
            train(TrainOptions.model_validate(options))
        return runs / name

    return start


def launch_sharded(options: dict[str, Any]) -> None:
    """On two processes, as a user would start them."""
    flags = [part for k, v in options.items() for part in (f"--{k.replace('_', '-')}", str(v))]
    script = Path(__file__).parents[2] / "train.py"
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(script), "--fsdp", *flags],
        check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(run: Callable[..., Path]) -> Path:
    return run("plain", fsdp=False)


@pytest.fixture(scope="module")
def sharded(run: Callable[..., Path]) -> Path:
    return run("sharded", fsdp=True)


def losses(run: Path) -> dict[int, tuple[float, float]]:
    lines = read_json_lines(run / "metrics.jsonl")
    return {line["step"]: (line["loss"], line["grad_norm"]) for line in lines}


def tensors(run: Path, step: str, part: str) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / step / f"{part}.safetensors")


def equal_runs(run: Path, expected: Path) -> None:
    """Losses to 1e-5; files of the same tensors, whose values are close."""
    found = losses(run)
    assert found
    for step, values in found.items():
        assert values == pytest.approx(losses(expected)[step], abs=1e-5), step
    folders = [r / "checkpoints" / END for r in (run, expected)]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for part in PARTS:
        ours, theirs = tensors(run, END, part), tensors(expected, END, part)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=1e-3, atol=1e-5, msg=key)
            assert ours[key].dtype == tensor.dtype
    one, other = (read_state(folder).model_dump() for folder in folders)
    assert one["step"] == other["step"] == 4
    assert one["model_arguments"] == other["model_arguments"]


def test_a_sharded_run_is_the_plain_one(sharded: Path, plain: Path) -> None:
    assert set(losses(sharded)) == {1, 2, 3, 4}
    equal_runs(sharded, plain)


def test_a_sharded_run_goes_on_where_a_plain_one_stopped(run, plain: Path) -> None:
    resumed = run("sharded-from-plain", fsdp=True, after=plain)
    assert set(losses(resumed)) == {3, 4}
    equal_runs(resumed, plain)


def test_a_plain_run_goes_on_where_a_sharded_one_stopped(run, sharded: Path) -> None:
    resumed = run("plain-from-sharded", fsdp=False, after=sharded)
    assert set(losses(resumed)) == {3, 4}
    equal_runs(resumed, sharded)
