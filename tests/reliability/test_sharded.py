"""Sharded runs (`--fsdp`) and plain ones are the same run: either goes on where the other stopped.

Sharded runs have two processes, plain ones are of this process, so that counts differ as well.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from reliability.jobs import full_only, start_tasks
from reliability.small_runs import command
from repa.checkpoints import read_state
from repa.cli import main
from repa.files import read_json_lines
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

    def start_run(name: str, fsdp: bool, after: Path | None = None) -> Path:
        if after is not None:
            folder = Path("checkpoints") / MIDDLE
            shutil.copytree(after / folder, runs / name / folder)
        steps = ["--logging-steps", "1", "--checkpointing-steps", "2"]
        arguments = command(emoji_dir, runs / name, *steps, steps=4)
        if fsdp:
            job = start_tasks(runs / f"{name}.txt", 2, "-m", "repa.cli", *arguments, "--fsdp")
            assert job.wait(300) == [0, 0], job.text
        else:
            assert main(arguments) == 0
        return runs / name

    return start_run


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


@full_only
def test_a_sharded_run_goes_on_where_a_plain_one_stopped(run, plain: Path) -> None:
    resumed = run("sharded-from-plain", fsdp=True, after=plain)
    assert set(losses(resumed)) == {3, 4}
    equal_runs(resumed, plain)


@full_only
def test_a_plain_run_goes_on_where_a_sharded_one_stopped(run, sharded: Path) -> None:
    resumed = run("plain-from-sharded", fsdp=False, after=sharded)
    assert set(losses(resumed)) == {3, 4}
    equal_runs(resumed, sharded)
