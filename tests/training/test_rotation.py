from pathlib import Path

import pytest

from repa.training.rotation import remove_old, remove_unfinished


def checkpoints(run: Path, *steps: int) -> Path:
    for step in steps:
        folder = run / "checkpoints" / f"{step:07d}"
        folder.mkdir(parents=True)
        (folder / "state.json").touch()
        (folder / "model.safetensors").write_bytes(b"weights")
    return run


def left(run: Path) -> list[str]:
    return sorted(path.name.lstrip("0") for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("last", "every", "expected"),
    [
        (None, None, [10, 20, 30, 40, 50]),
        (None, 20, [10, 20, 30, 40, 50]),
        (1, None, [50]),
        (3, None, [30, 40, 50]),
        (9, None, [10, 20, 30, 40, 50]),
        (1, 20, [20, 40, 50]),
        (2, 30, [30, 40, 50]),
        (1, 7, [50]),
    ],
)
def test_the_newest_and_every_nth_stay(
    tmp_path: Path, last: int | None, every: int | None, expected: list[int]
) -> None:
    run = checkpoints(tmp_path, 10, 20, 30, 40, 50)
    remove_old(run, last, every)
    assert left(run) == [str(step) for step in expected]


def test_what_is_no_checkpoint_of_the_run_stays(tmp_path: Path) -> None:
    run = checkpoints(tmp_path, 1, 2, 3)
    for name in ("0000001.aside", "0000002.damaged", "mine"):
        (run / "checkpoints" / name).mkdir()
    (run / "checkpoints" / "0000001.pt").touch()  # of the release
    remove_old(run, 1, None)
    assert left(run) == ["1.aside", "1.pt", "2.damaged", "3", "mine"]


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    run = checkpoints(tmp_path, 1)
    (run / "checkpoints" / ".0000002.partial").mkdir()
    (run / "checkpoints" / ".0000002.partial" / "model.safetensors").touch()
    remove_unfinished(run)
    assert left(run) == ["1"]
    remove_unfinished(tmp_path / "none")
