from pathlib import Path

import pytest

from repa.report.evaluations import Arrival, Protocol, SpeedUp, baseline_of, speed_up
from repa.report.runs import RunRecord, read_runs
from report.folders import evaluation, write_lines, write_run

INCEPTION = Protocol("inception", 5000)


@pytest.fixture
def compared(tmp_path: Path):
    """How soon the second run gets to the first one's final FID, from the FID by step of both."""

    def compare(plain: dict[int, float], other: dict[int, float]) -> SpeedUp | None:
        folders = [write_run(tmp_path / "plain"), write_run(tmp_path / "other", "dinov2-vit-b")]
        for folder, fids in zip(folders, (plain, other), strict=True):
            lines = [evaluation(step, fid) for step, fid in fids.items()]
            write_lines(folder / "evaluations.jsonl", lines)
        return speed_up(read_runs(folders), INCEPTION)

    return compare


def test_the_first_evaluated_step_that_is_as_good_counts(compared) -> None:
    found = compared({100: 50.0, 400: 20.0}, {100: 30.0, 200: 19.9, 400: 10.0})
    assert found.target == 20.0
    assert found.arrivals == (Arrival("other", 200, 2.0, 400),)
    assert found.arrivals[0].sentence(found.target_name) == (
        "other reaches plain's final FID 20 at step 200, 2.0 times sooner"
    )


def test_nothing_is_interpolated(compared) -> None:
    """A line from 100 to 400 would cross 20 at step 200."""
    found = compared({100: 50.0, 400: 20.0}, {100: 25.0, 400: 10.0})
    assert found.arrivals[0].step == 400
    assert found.arrivals[0].sentence("it") == "other reaches it at step 400, as soon"


def test_equal_is_reached(compared) -> None:
    assert compared({400: 20.0}, {100: 20.0}).arrivals[0].times == 4.0


def test_never_is_said(compared) -> None:
    found = compared({100: 50.0, 400: 20.0}, {100: 60.0, 300: 20.1})
    assert found.arrivals == (Arrival("other", None, None, 300),)
    assert found.arrivals[0].sentence("it") == "other does not reach it by step 300"


def test_what_is_reached_at_the_start_is_not_compared_in_times(compared) -> None:
    found = compared({0: 20.0}, {100: 20.0})
    assert found.arrivals[0].sentence("it") == "other reaches it at step 100"


def test_the_start_is_a_step_too(compared) -> None:
    found = compared({400: 20.0}, {0: 20.0})
    assert found.arrivals[0].sentence("it") == "other reaches it at step 0"


def test_later_is_said(compared) -> None:
    found = compared({400: 20.0}, {400: 25.0, 1000: 20.0})
    assert found.arrivals[0].sentence("it") == "other reaches it at step 1,000, 2.5 times later"


def test_a_baseline_that_got_worse_had_its_final_distance_sooner(compared) -> None:
    found = compared({100: 20.0, 200: 15.0, 400: 21.0}, {100: 21.0, 400: 10.0})
    assert found.target == 21.0
    assert found.arrivals[0].times == 1.0  # both had it at step 100


def test_only_evaluations_alike_are_compared(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "plain"), write_run(tmp_path / "other", "dinov2-vit-b")]
    write_lines(folders[0] / "evaluations.jsonl", [evaluation(100, 20.0)])
    write_lines(folders[1] / "evaluations.jsonl", [evaluation(100, 10.0, samples=50_000)])
    runs = read_runs(folders)
    assert speed_up(runs, INCEPTION) is None
    assert speed_up(runs, Protocol("inception", 50_000)) is None


def test_values_that_are_no_numbers_are_left_out(compared) -> None:
    found = compared({100: 20.0, 400: float("nan")}, {100: float("nan"), 200: 19.0})
    assert found.target == 20.0
    assert found.arrivals[0].step == 200


def test_the_plain_run_is_the_baseline_wherever_it_stands(runs: list[RunRecord]) -> None:
    plain, repa = runs
    assert baseline_of([repa, plain]) is plain
    assert baseline_of([repa]) is repa
    assert baseline_of([repa, plain, plain]) is plain
