"""One job at a time in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from repa.errors import RepaError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".repa-job.lock"
_held: set[int] = set()  # descriptors of the lock files that this process keeps open


@contextmanager
def only_job(folder: Path, what: Path | None = None, file: str = LOCK) -> Iterator[None]:
    """A block that one job at a time is in, of all that work in a folder.

    The kernel keeps the lock and frees it when the process ends, killed or not; processes that it
    starts do not keep it. Of a job's processes one takes it. Where a system or network drive knows
    no such locks, or no file can be made, the block goes on without: its own writing will tell.

    Args:
        folder: that the job writes to; made if need be, and removed again if it stays empty.
        what: the job's output, for the message; by default the folder.
        file: name of the lock file in the folder; it says who has the lock, and goes with it.

    Raises:
        RepaError: at once, if another job is in such a block.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = None if fcntl is None else _take(folder, what or folder, file)
    try:
        yield
    finally:
        if lock in _held:
            with suppress(OSError):
                (folder / file).unlink()  # before it is free: afterwards it may be another's
            _held.discard(lock)
            os.close(lock)
        for place in new:
            with suppress(OSError):  # not empty
                place.rmdir()


def _take(folder: Path, what: Path, file: str) -> int | None:
    """The locked file, which says who has it; None where there can be no lock."""
    path = folder / file
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # another job has just removed its empty folder
            continue
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                break
            os.close(lock)  # its holder has just removed it, and another may have made a new one
        except FileNotFoundError:
            os.close(lock)
        except BlockingIOError:
            holder = _holder(lock)
            os.close(lock)
            raise RepaError(
                f"{what} is in use by another job{holder}: wait for it or choose another folder"
            ) from None
        except OSError:
            os.close(lock)
            return None
    _held.add(lock)
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    holding = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    with suppress(OSError):  # on a full disk the lock holds without a name
        os.truncate(lock, 0)
        os.pwrite(lock, json.dumps(holding).encode(), 0)
    return lock


def _holder(lock: int) -> str:
    """Who has a lock, in parentheses; nothing if the file does not say it (yet)."""
    try:
        known = json.loads(os.pread(lock, 1000, 0))
        return f" (process {known['process']} on {known['host']} since {known['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _forget() -> None:
    """In a process just forked: the lock is its parent's, and ends with that one."""
    for lock in _held:
        os.close(lock)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
