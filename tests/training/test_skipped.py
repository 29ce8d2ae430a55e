"""Steps that are left out for numbers that are not finite: the end of patience."""

import pytest

from repa.errors import RepaError
from repa.files import read_json_lines
from repa.training import train


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
