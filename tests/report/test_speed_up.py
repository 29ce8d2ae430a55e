from pathlib import Path

import pytest

from repa.report.evaluations import Protocol
from repa.report.groups import groups_of
from repa.report.runs import read_runs
from repa.report.speed_up import SpeedUp, speed_up
from report.folders import evaluation, write_lines, write_run

INCEPTION = Protocol("inception", 5000)
Curve = dict[int, float]


@pytest.fixture
def compared(tmp_path: Path):
    """How soon other runs get to the plain ones' final FID, from each run's FID by step."""

    def compare(plain: Curve | list[Curve], other: Curve | list[Curve], **more) -> SpeedUp | None:
        folders = []
        for name, enc_type, fids in (("plain", "none", plain), ("other", "dinov2-vit-b", other)):
            for seed, own in enumerate(fids if isinstance(fids, list) else [fids]):
                place = f"{name}-seed{seed}" if isinstance(fids, list) else name
                folders.append(write_run(tmp_path / place, enc_type, seed=seed))
                lines = [evaluation(step, fid) for step, fid in own.items()]
                write_lines(folders[-1] / "evaluations.jsonl", lines)
        return speed_up(groups_of(read_runs(folders)), INCEPTION, **more)

    return compare


def said(found: SpeedUp | None) -> str:
    assert found is not None
    (arrival,) = found.arrivals
    return arrival.sentence("it")


@pytest.mark.parametrize(
    ("plain", "other", "text"),
    [
        ({100: 50, 400: 20}, {100: 30, 200: 10, 400: 9},
         "other reaches it at about step 150, 2.7 times sooner (between 2.0 and 4.0)"),
        ({100: 50, 400: 20}, {100: 30, 200: 20, 400: 9},
         "other reaches it at step 200, 2.0 times sooner (between 2.0 and 4.0)"),
        ({400: 20}, {100: 20}, "other reaches it by step 100, at least 4.0 times sooner"),
        ({100: 50, 400: 20}, {100: 60, 300: 20.1}, "other does not reach it by step 300"),
        ({400: 20}, {400: 25, 1000: 20},
         "other reaches it at step 1,000, 2.5 times later (between 1.0 and 2.5)"),
        ({400: 20}, {1000: 20}, "other reaches it by step 1,000, at most 2.5 times later"),
        ({400: 20}, {300: 21, 500: 19},
         "other reaches it at about step 400, as soon (between 0.8 and 1.3)"),
        ({0: 20}, {100: 20}, "other reaches it by step 100"),
        ({400: 20}, {0: 20}, "other reaches it by step 0"),
        # After step 0 it may have been there at any time.
        ({400: 20}, {0: 30, 200: 10},
         "other reaches it at about step 100, 4.0 times sooner (at least 2.0)"),
        # The plain run had its final distance before, and maybe before it was first evaluated.
        ({100: 20, 200: 15, 400: 21}, {50: 30, 100: 21, 400: 10},
         "other reaches it at step 100, as soon (at most 2.0)"),
        ({100: 20, 400: 21}, {100: 20, 400: 10}, "other reaches it by step 100"),
        ({100: 31, 200: 11, 400: 21}, {50: 31, 100: 11},
         "other reaches it at about step 75, 2.0 times sooner (between 1.0 and 4.0)"),
        # The first crossing counts, whatever comes after it.
        ({400: 20}, {100: 30, 200: 20, 300: 40, 400: 10},
         "other reaches it at step 200, 2.0 times sooner (between 2.0 and 4.0)"),
        ({100: 20, 400: float("nan")}, {50: 20, 60: float("nan")},
         "other reaches it by step 50, at least 2.0 times sooner"),
    ],
)  # fmt: skip
def test_a_speed_up_has_the_range_that_evaluated_steps_leave(
    compared, plain: Curve, other: Curve, text: str
) -> None:
    assert said(compared(plain, other)) == text


def test_the_target_is_the_plain_runs_last_value(compared) -> None:
    found = compared({100: 10.0, 400: 20.0}, {100: 30.0})
    assert (found.target, found.target_name) == (20.0, "plain's final FID 20")


@pytest.mark.parametrize(
    ("plain", "other", "text"),
    [
        # Pairs of equal seed, each with its own target: 400 / 200 and 400 / 250.
        ([{400: 20}, {400: 30}], [{100: 30, 300: 10}, {100: 60, 300: 20}],
         "at about step 225, 1.8 times sooner, 1.60 to 2.00 over 2 seeds"),
        ([{400: 20}, {400: 20}], [{800: 20, 100: 21}, {400: 20, 100: 21}],
         "at about step 600, 1.3 times later, 1.00 to 2.00 over 2 seeds"),
        ([{400: 20}, {400: 20}], [{100: 20}, {100: 30, 200: 20}],
         "at about step 150, at least 3.0 times sooner, 2.00 to 4.00 over 2 seeds"),
        ([{400: 20}, {400: 20}], [{100: 30, 200: 20}, {400: 21}],
         "at step 200 with 1 of 2 seeds, 2.0 times sooner (between 2.0 and 4.0)"),
        ([{400: 20}, {400: 10}], {100: 25, 200: 15, 300: 5},
         "at about step 200, 2.1 times sooner, 1.60 to 2.67 over 2 pairs"),
        ({400: 20}, [{100: 25, 200: 15}, {100: 30, 300: 10}],
         "at about step 175, 2.3 times sooner, 2.00 to 2.67 over 2 seeds"),
    ],
)  # fmt: skip
def test_over_seeds_there_is_a_mean_with_the_lowest_and_the_highest(
    compared, plain, other, text: str
) -> None:
    assert said(compared(plain, other)) == f"other reaches it {text}"


def test_one_step_tells_nothing_about_how_soon(compared) -> None:
    assert compared({400: 20}, {400: 10}) is None


def test_that_no_seed_gets_there_is_said(compared) -> None:
    found = compared([{400: 20}, {400: 10}], [{300: 21}, {400: 12}])
    assert said(found) == "other does not reach it by step 400 with any seed"
    assert found.target_name == "plain's mean final FID 15"


def test_over_time_slower_steps_count(compared) -> None:
    """Plain runs take 5 steps a second, aligned ones 4."""
    curves = {12_000: 50, 48_000: 20}, {12_000: 30, 24_000: 10}
    assert said(compared(*curves, over="minutes")) == (
        "other reaches it after 75 min of training, 2.1 times sooner (between 1.6 and 3.2)"
    )


def test_a_run_that_never_gets_there_is_told_its_time(compared) -> None:
    assert said(compared({12_000: 20}, {24_000: 21}, over="minutes")) == (
        "other does not reach it in 100 min of training"
    )


def test_where_a_log_tells_no_time_nothing_is_said_of_it(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "plain"), write_run(tmp_path / "other", "dinov2-vit-b")]
    for folder in folders:
        write_lines(folder / "evaluations.jsonl", [evaluation(s, 20.0) for s in (100, 200)])
    (folders[1] / "metrics.jsonl").unlink()
    groups = groups_of(read_runs(folders))
    assert speed_up(groups, INCEPTION, "minutes") is None
    assert speed_up(groups, INCEPTION, "step") is not None


def test_only_evaluations_alike_are_compared(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "plain"), write_run(tmp_path / "other", "dinov2-vit-b")]
    write_lines(folders[0] / "evaluations.jsonl", [evaluation(100, 20.0)])
    write_lines(folders[1] / "evaluations.jsonl", [evaluation(100, 10.0, samples=50_000)])
    groups = groups_of(read_runs(folders))
    assert speed_up(groups, INCEPTION) is None
    assert speed_up(groups, Protocol("inception", 50_000)) is None
