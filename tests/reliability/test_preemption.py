"""Signals, rotation, full and read-only disks: a run ends as it says, and nothing is lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.disk import full_disk
from reliability.jobs import full_only
from reliability.small_runs import STEPS, command, contents
from reliability.victims import End, Victim, run_victims
from repa.checkpoints import list_checkpoints, read_state
from repa.checkpoints.folder import check_checkpoint
from repa.cli import main
from repa.errors import PREEMPTED

pytestmark = pytest.mark.promise("2 preemption")


@pytest.fixture(scope="module")
def whole(emoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run that wrote its last checkpoint alone."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(emoji_dir, run, "--keep-last", "1")) == 0
    return run


def test_a_signal_is_answered_with_a_checkpoint_and_its_exit_code(
    whole: Path, emoji_dir: Path, tmp_path: Path, runs: int, survived: Callable[[], None]
) -> None:
    """Each victim gets SIGTERM and SIGUSR1 at random moments, also while it sets up or draws."""
    expected, moments = contents(whole), random.Random(11)
    victims = [
        Victim(
            command(emoji_dir, run, "--keep-last", "1", "--checkpointing-steps", "1000"),
            str(run),
            [
                End("event", moments.randint(1, 8), signal.SIGUSR1),
                End("steps", moments.uniform(0, 0.3), signal.SIGTERM),
            ],
        )
        for run in (tmp_path / f"run{number}" for number in range(runs))
    ]
    answered = 0
    for victim, result in zip(victims, run_victims(victims, tmp_path), strict=True):
        *ends, last = result.codes
        assert last == 0, result.output
        assert set(ends) <= {0, PREEMPTED}, result.output  # 0: it had just done its last step
        answered += ends.count(PREEMPTED)
        told = result.output.count("with a checkpoint of step")
        assert told == ends.count(PREEMPTED), result.output
        assert contents(Path(victim.folder)) == expected
        survived()
    assert answered > runs // 2, "too late to test anything"


def test_what_is_due_at_the_step_of_a_signal_is_drawn_by_the_next_start(
    emoji_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repa.training.step import TrainingStep

    run, taken = tmp_path / "run", TrainingStep.__call__

    def interrupted(self, arrays):
        losses = taken(self, arrays)
        os.kill(os.getpid(), signal.SIGTERM)
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", interrupted)
        assert main(command(emoji_dir, run, "--sampling-steps", "1")) == PREEMPTED
    assert [path.name for path in list_checkpoints(run)] == ["0000001"]
    assert not (run / "previews").exists()
    assert main(command(emoji_dir, run, "--sampling-steps", "1", steps=2)) == 0
    previews = sorted(path.name for path in (run / "previews").iterdir())
    assert previews == ["0000001.png", "0000002.png"]


@pytest.mark.parametrize(
    ("last", "every", "expected"),
    [
        (2, 6, [6, 9, 12]),
        pytest.param(1, None, [12], marks=full_only),
        pytest.param(9, 6, [3, 6, 9, 12], marks=full_only),
    ],
)
def test_the_last_and_every_nth_checkpoint_stay(
    whole: Path, emoji_dir: Path, tmp_path: Path, last: int, every: int | None, expected: list[int]
) -> None:
    more = ["--keep-last", str(last)] + ([] if every is None else ["--keep-every", str(every)])
    run = tmp_path / "run"
    assert main(command(emoji_dir, run, *more, "--sampling-steps", "1000")) == 0
    assert sorted(int(path.name) for path in (run / "checkpoints").iterdir()) == expected
    for path in list_checkpoints(run):
        check_checkpoint(path)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        pytest.param(0, "cannot be written: File too large", marks=full_only),
        (100, "cannot be written: File too large"),
        (100_000, "File too large (os error 27). Those before it are whole: make room"),
        pytest.param(5_000_000, "0000009 cannot be written", marks=full_only),
    ],
)
def test_a_full_disk_ends_the_run_and_leaves_its_checkpoints(
    whole: Path, emoji_dir: Path, tmp_path: Path, size: int, message: str, capsys
) -> None:
    run = tmp_path / "run"
    assert main(command(emoji_dir, run, steps=6)) == 0
    before = {path: read_state(path).step for path in list_checkpoints(run)}
    with full_disk(size):
        assert main(command(emoji_dir, run)) == 2
    told = capsys.readouterr().err
    assert message in told.replace("\n", " "), told
    assert "Traceback" not in told
    assert {path: read_state(path).step for path in list_checkpoints(run)} == before
    for path in before:
        check_checkpoint(path)
    assert not list(run.rglob("*.partial"))
    assert main(command(emoji_dir, run)) == 0  # there is room again
    for path in ("model", "ema", "heads", "optimizer"):
        there = run / "checkpoints" / f"{STEPS:07d}" / f"{path}.safetensors"
        assert there.read_bytes() == (whole / there.relative_to(run)).read_bytes()


@pytest.mark.skipif(
    os.getuid() == 0 and shutil.which("setpriv") is None, reason="root may write everywhere"
)
def test_a_folder_that_may_not_be_written_to_says_so(emoji_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    assert main(command(emoji_dir, run, steps=3)) == 0
    paths = [run.parent, *run.parent.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    start = [sys.executable, "-m", "repa.cli", *command(emoji_dir, run)]
    if os.getuid() == 0:  # who may write everywhere, unless this is taken away
        start = ["setpriv", "--bounding-set=-dac_override", *start]
    result = subprocess.run(start, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "Permission denied" in result.stderr
    assert "Traceback" not in result.stderr
    for path in paths:
        path.chmod(0o755)
    check_checkpoint(list_checkpoints(run)[-1])
