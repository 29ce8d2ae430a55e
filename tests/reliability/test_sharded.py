"""Sharded runs (`--fsdp`) and plain ones are the same run: either goes on where the other stopped.

Four launches: a plain run and a sharded one, each on two processes, then each kind from the middle
of the other, the plain one on one process.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from repa.checkpoints import read_state
from repa.files import read_json_lines
from repa.training.sharding import can_shard

pytestmark = [
    pytest.mark.promise("4 several processes"),
    pytest.mark.skipif(not can_shard(torch.device("cpu")), reason="no FSDP2 on the CPU"),
]
PARTS = ("model", "ema", "heads", "optimizer")
MIDDLE, END = "0000002", "0000004"


@pytest.fixture(scope="module")
def launch(emoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains to step 4, from another run's step 2 or from the start; returns the run's folder."""
    runs = tmp_path_factory.mktemp("runs")

    def start(name: str, *flags: str, processes: int = 2, after: Path | None = None) -> Path:
        run = runs / name
        if after is not None:
            folder = Path("checkpoints") / MIDDLE
            shutil.copytree(after / folder, run / folder)
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc-per-node={processes}", str(Path(__file__).parents[2] / "train.py"),
             "--exp-name", name, "--output-dir", str(runs), "--data-dir", str(emoji_dir),
             "--model", "SiT-Ti/8", "--enc-type", "efficientnet-lite0", "--encoder-depth", "2",
             "--projector-dim", "32", "--max-train-steps", "4", "--batch-size", "8",
             "--learning-rate", "1e-3", "--ema-decay", "0.9", "--mixed-precision", "no",
             "--device", "cpu", "--report-to", "none", "--logging-steps", "1",
             "--checkpointing-steps", "2", *flags],
            check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return run

    return start


@pytest.fixture(scope="module")
def plain(launch: Callable[..., Path]) -> Path:
    return launch("plain")


@pytest.fixture(scope="module")
def sharded(launch: Callable[..., Path]) -> Path:
    return launch("sharded", "--fsdp")


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


def test_a_sharded_run_goes_on_where_a_plain_one_stopped(launch, plain: Path) -> None:
    run = launch("sharded-from-plain", "--fsdp", after=plain)
    assert set(losses(run)) == {3, 4}
    equal_runs(run, plain)


def test_a_plain_run_of_one_process_goes_on_where_a_sharded_one_stopped(
    launch, sharded: Path
) -> None:
    run = launch("plain-from-sharded", processes=1, after=sharded)
    assert set(losses(run)) == {3, 4}
    equal_runs(run, sharded)
