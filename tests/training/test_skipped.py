"""Steps that are left out for numbers that are not finite."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from repa.checkpoints.state import Progress
from repa.data import PreparedDataset
from repa.data.visits import Visits
from repa.errors import RepaError
from repa.files import read_json_lines
from repa.training import train
from repa.training.batches import BatchMaker
from repa.training.skipped import SkippedSteps

BROKEN = {"loss": torch.tensor(float("nan")), "grad_norm": torch.tensor(float("inf"))}
WHOLE = {"loss": torch.tensor(1.0), "grad_norm": torch.tensor(2.0)}


def skipped_steps(emoji: PreparedDataset, path: Path) -> SkippedSteps:
    make_batch = BatchMaker(emoji.manifest, [], {}, 4, torch.device("cpu"), {})
    visits = Visits(emoji, 0, make_batch.keys)
    accelerator = Accelerator(cpu=True)
    return SkippedSteps(path, visits, make_batch, 8, 20, Progress(written=0), 0, accelerator)


def test_a_step_is_looked_at_after_the_next(emoji: PreparedDataset, tmp_path: Path) -> None:
    skipped = skipped_steps(emoji, tmp_path / "skipped.jsonl")
    for step, losses in enumerate((WHOLE, BROKEN, BROKEN, WHOLE), 1):
        skipped.watch(step, losses)
    assert (skipped.total, skipped.in_row) == (2, 2)
    skipped.look()
    assert (skipped.total, skipped.in_row) == (2, 0)
    lines = read_json_lines(skipped.path)
    assert [line["step"] for line in lines] == [2, 3]
    assert lines[0]["losses"] == {"loss": "nan", "grad_norm": "inf"}
    assert lines[0]["images"] == [skipped.visits.index(visit) for visit in range(8, 16)]
    assert lines[0]["tensors"]["x"]["not_finite"] == 0


def test_a_file_that_cannot_be_written_is_a_clear_error(
    emoji: PreparedDataset, tmp_path: Path
) -> None:
    skipped = skipped_steps(emoji, tmp_path / "gone" / "skipped.jsonl")
    skipped.watch(1, BROKEN)
    with pytest.raises(RepaError, match=r"skipped\.jsonl cannot be written: No such file"):
        skipped.look()


def test_too_many_in_a_row_end_the_run_with_what_may_help(options) -> None:
    """A rate at which the first step leaves weights that are too large to compute with."""
    wild = options(learning_rate=1e38, max_grad_norm=1e9, max_skipped_steps=2)
    message = (
        r"^2 steps in a row, the last of them 3, had a loss or gradients that are not finite and "
        r"were skipped: \S+skipped\.jsonl has their images\. A lower --learning-rate"
    )
    with pytest.raises(RepaError, match=message):
        train(wild)
    lines = read_json_lines(wild.output_dir / "run" / "skipped.jsonl")
    assert [line["step"] for line in lines] == [2, 3]
    assert all(len(line["images"]) == wild.batch_size for line in lines)
