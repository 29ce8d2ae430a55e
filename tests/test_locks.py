import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from evaluation.disk import full_disk
from repa import locks
from repa.errors import RepaError
from repa.locks import LOCK, only_job

HOLD = r"""
import os, sys, time
from pathlib import Path
from repa.locks import only_job
with only_job(Path(sys.argv[1])):
    if len(sys.argv) > 2 and os.fork() == 0:
        os.write(1, b"%d\n" % os.getpid())  # in one piece: two processes write
        time.sleep(60)
        os._exit(0)
    os.write(1, b"held\n")
    time.sleep(60)
"""


def _hold(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _assert_refused(*arguments: Any, message: str) -> None:
    with pytest.raises(RepaError, match=message), only_job(*arguments):
        pass


def test_a_second_job_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    holder = _hold(tmp_path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):  # a refused one leaves the lock as it was
            with pytest.raises(RepaError) as refused, only_job(tmp_path):
                pass
            start = f"{tmp_path} is in use by another job (process {holder.pid} on "
            assert str(refused.value).startswith(start)
            assert " since 2" in str(refused.value)
            assert str(refused.value).endswith("): wait for it or choose another folder")
    finally:
        holder.kill()
        holder.wait()
    with only_job(tmp_path):  # the kernel freed it at once
        pass
    assert not list(tmp_path.iterdir())


def test_children_of_a_killed_job_do_not_keep_its_lock(tmp_path: Path) -> None:
    holder = _hold(tmp_path, "with a child")
    assert holder.stdout is not None
    lines = sorted(holder.stdout.readline() for _ in range(2))
    child = int(lines[0])
    try:
        _assert_refused(tmp_path, message="in use")
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it lives
        with only_job(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_child_that_leaves_the_block_does_not_free_the_lock(tmp_path: Path) -> None:
    with only_job(tmp_path):
        child = os.fork()
        if child == 0:
            locks._forget()  # as at every fork; twice does no harm
            os._exit(0)
        os.waitpid(child, 0)
        _assert_refused(tmp_path, message="in use")


def test_a_job_that_fails_frees_the_lock_and_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a/b"
    with suppress(ValueError), only_job(folder):
        assert (folder / LOCK).exists()
        raise ValueError("broken")
    assert not (tmp_path / "a").exists()
    with only_job(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_jobs_of_different_outputs_share_a_folder(tmp_path: Path) -> None:
    one = (tmp_path, tmp_path / "a", ".a.lock")
    with only_job(*one), only_job(tmp_path, file=".b.lock"):
        _assert_refused(*one, message=r"/a is in use")


def test_a_file_that_says_nothing_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("{")  # of a killed job
    with only_job(tmp_path):
        (tmp_path / LOCK).write_text("7")
        _assert_refused(tmp_path, message="by another job: wait")


def test_on_a_full_disk_the_lock_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.socket, "gethostname", lambda: "h" * 200)
    with full_disk(), only_job(tmp_path):
        _assert_refused(tmp_path, message="by another job: wait")


def test_where_there_are_no_locks_jobs_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with only_job(tmp_path / "file"):  # cannot hold a lock file: writing will tell
        pass

    def refuse(*_: object) -> None:
        raise OSError("no locks on this drive")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with only_job(tmp_path), only_job(tmp_path):
        pass
    monkeypatch.setattr(locks, "fcntl", None)  # Windows
    with only_job(tmp_path), only_job(tmp_path):
        pass


def test_many_jobs_never_overlap(tmp_path: Path) -> None:
    """They take and remove the file by turns, and none is in the block with another."""
    script = """
import sys, time
from pathlib import Path
from repa.errors import RepaError
from repa.locks import only_job
folder, end, took = Path(sys.argv[1]), time.monotonic() + 1, 0
while time.monotonic() < end:
    try:
        with only_job(folder / "job"):
            (folder / "inside").mkdir()  # fails if another is inside
            took += 1
            (folder / "inside").rmdir()
    except RepaError:
        pass
assert took
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    jobs = [subprocess.Popen(command) for _ in range(3)]
    assert [job.wait() for job in jobs] == [0, 0, 0]
