"""A run that is killed, again and again, ends with the same bits as one that is not."""

import os
import random
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from reliability.jobs import TORCHRUN, Job, children, full_only, start
from reliability.small_runs import STEPS, command, contents
from reliability.victims import End, Result, Victim, run_victims
from repa.cli import main

pytestmark = pytest.mark.promise("1 exact resume")


@pytest.fixture(scope="module")
def whole(emoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """An uninterrupted run, and what its process did."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    [result] = run_victims([Victim(command(emoji_dir, folder), str(folder), [])], folder.parent)
    assert result.codes == [0], result.output
    return folder, result


def test_a_run_killed_at_any_moment_goes_on_to_the_same_bits(
    whole: tuple[Path, Result],
    emoji_dir: Path,
    tmp_path: Path,
    runs: int,
    survived: Callable[[], None],
) -> None:
    """Each victim is killed once before any file operation, once in a checkpoint's write."""
    expected, undisturbed = contents(whole[0]), whole[1]
    moments = random.Random(10)
    victims = [
        Victim(
            command(emoji_dir, tmp_path / f"run{number}"),
            str(tmp_path / f"run{number}"),
            [
                End("event", moments.randint(1, undisturbed.events), signal.SIGKILL),
                End("write", moments.uniform(0, 0.06), signal.SIGKILL),
                End("steps", moments.uniform(0, 0.3), signal.SIGKILL),
            ],
        )
        for number in range(runs)
    ]
    killed = 0
    for victim, result in zip(victims, run_victims(victims, tmp_path), strict=True):
        *ends, last = result.codes
        assert last == 0, result.output
        assert set(ends) <= {0, -signal.SIGKILL}
        killed += ends.count(-signal.SIGKILL)
        found = contents(Path(victim.folder))
        assert found.keys() == expected.keys(), victim
        for name, value in expected.items():
            assert found[name] == value, (name, victim)
        assert not list(Path(victim.folder).rglob("*.partial"))
        survived()
    assert killed >= 2 * runs, "too late to test anything"


@full_only
def test_two_processes_killed_together_go_on_to_the_same_bits(
    emoji_dir: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "whole", tmp_path / "killed"]

    def start_two(folder: Path) -> Job:
        launch = [*TORCHRUN, "--nproc-per-node=2", "-m", "repa.cli", *command(emoji_dir, folder)]
        return start(tmp_path / f"{folder.name}.txt", [launch], [{}])

    assert start_two(folders[0]).wait(120) == [0]
    [launcher] = start_two(folders[1]).processes
    while not (folders[1] / "checkpoints" / "0000003").exists():
        assert launcher.poll() is None
    for process in [launcher.pid, *children(launcher.pid)]:
        os.kill(process, signal.SIGKILL)
    launcher.wait()
    assert not (folders[1] / "checkpoints" / f"{STEPS:07d}").exists()
    assert start_two(folders[1]).wait(120) == [0]
    expected, found = (contents(folder) for folder in folders)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("optimizer", "bit"),
        ("state", "gone"),
        *(pytest.param(n, "bit", marks=full_only) for n in ("model", "ema", "heads", "state")),
        pytest.param("model", "cut", marks=full_only),
        pytest.param("optimizer", "gone", marks=full_only),
    ],
)
def test_a_damaged_checkpoint_is_skipped_loudly_for_the_one_before(
    whole: tuple[Path, Result], emoji_dir: Path, tmp_path: Path, name: str, damage: str, capsys
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    last = run / "checkpoints" / f"{STEPS:07d}"
    [file] = last.glob(f"{name}.*")
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 4
    file.unlink() if damage == "gone" else file.write_bytes(
        content[: -1 if damage == "cut" else None]
    )
    assert main(command(emoji_dir, run)) == 0
    told = capsys.readouterr().err
    assert re.search(rf"warning: damaged checkpoint.*{STEPS:07d}.*{name}.*0000009", told), told
    assert last.with_name(f"{STEPS:07d}.damaged").exists()
    for path in ("model", "ema", "heads", "optimizer"):
        there = last / f"{path}.safetensors"
        assert there.read_bytes() == (whole[0] / there.relative_to(run)).read_bytes()


def test_where_all_checkpoints_are_damaged_nothing_begins_anew(
    whole: tuple[Path, Result], emoji_dir: Path, tmp_path: Path, capsys
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    for file in run.glob("checkpoints/*/model.safetensors"):
        file.write_bytes(b"else")
    before = sorted(run.rglob("*"))
    assert main(command(emoji_dir, run)) == 2
    assert "all checkpoints of" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before
