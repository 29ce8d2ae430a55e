import json
from pathlib import Path

import pytest

from repa.report.runs import read_runs
from repa.report.times import SECONDS, minutes_at, time_note, with_seconds
from report.folders import write_lines, write_run

OPTIONS = {"batch_size": 64, "gradient_accumulation_steps": 2}
# 100 steps of 128 images at 128 a second, then 100 at 64; who logs steps only tells no time.
LOG = [{"step": 100, "images_per_second": 128.0}, {"step": 200, "images_per_second": 64.0}]


def test_time_is_that_of_the_steps_whatever_was_done_in_between() -> None:
    slow = [line | {"seconds": 9 * line["step"]} for line in LOG]
    assert [line[SECONDS] for line in with_seconds(slow, OPTIONS)] == [100.0, 300.0]


@pytest.mark.parametrize(
    ("step", "minutes"), [(0, 0.0), (60, 1.0), (100, 100 / 60), (130, 160 / 60), (200, 5.0)]
)
def test_between_two_lines_time_goes_in_proportion(step: int, minutes: float) -> None:
    assert minutes_at(with_seconds(LOG, OPTIONS), step) == minutes


@pytest.mark.parametrize(
    ("lines", "options", "first_step"),
    [([], OPTIONS, 0), ([*LOG, {"step": 300}], OPTIONS, 0), (LOG, OPTIONS, 50), (LOG, {}, 0),
     ([LOG[0], {"step": 200, "images_per_second": 0.0}], OPTIONS, 0), (LOG[:1], OPTIONS, 0)],
)  # fmt: skip
def test_what_the_log_does_not_tell_is_not_known(lines, options, first_step) -> None:
    assert minutes_at(with_seconds(lines, options, first_step), 150) is None


@pytest.mark.parametrize(("first", "known"), [(0, True), (400_000, False)])
def test_a_run_that_continues_another_one_does_not_know_its_time(
    tmp_path: Path, first: int, known: bool
) -> None:
    folder = write_run(tmp_path / "run")
    write_lines(folder / "starts.jsonl", [{"step": first}, {"step": 500_000}])
    (run,) = read_runs([folder])
    assert (SECONDS in run.metrics[0]) == known


@pytest.mark.parametrize(
    ("features", "text"),
    [(["lite0", "x"], "nor does caching the features of lite0 before training."),
     (["x"], "checkpoints do not count."), (None, "If features were cached before training")],
)  # fmt: skip
def test_whether_caching_counts_is_said(
    tmp_path: Path, features: list[str] | None, text: str
) -> None:
    if features is not None:
        manifest = {"features": {name: {} for name in features}}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    options = {"enc_type": "lite0, lite2", "data_dir": str(tmp_path)}
    assert text in time_note([options])
    assert "cach" not in time_note([])
