"""Small files: written whole or not at all, read one JSON line at a time. No PyTorch in here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from repa.errors import RepaError

LONGEST_LINE = 1 << 24  # bytes; longer ones are not looked through for their beginning

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that any reader, at any moment, sees the old or the new one whole.

    Raises:
        OSError: if it cannot be written; the old one stays, and nothing else.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path`, whole, when the block ends.

    If the block or writing fails, what was written is removed.

    Raises:
        OSError: if it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def make_durable(folder: Path) -> None:
    """Hands a folder's files and their names to the disk: they outlast a machine without power.

    Raises:
        OSError: if the disk does not take them.
    """
    for path in (*folder.iterdir(), folder):
        sync(path)


def sync(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk.

    Raises:
        OSError: if the disk does not take them.
    """
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process is in such a block with the same lock file, made if need be.

    Where a system or network drive knows no such locks, it does not wait.

    Raises:
        OSError: if the file cannot be made.
    """
    with path.open("a") as file:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        yield


def to_json(value: Any) -> bytes:
    """Compact UTF-8 JSON with a final newline.

    Raises:
        ValueError: if a number in it is not finite, which JSON has no word for.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def append_json(path: Path, value: Any) -> None:
    """Adds a line to a JSONL file, whole or not at all; a last one that was cut short goes.

    Raises:
        OSError: if it cannot be written.
        ValueError: as `to_json`.
    """
    line = to_json(value)
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        last = _unfinished_line(file, end)
        if _is_object(last):  # only its newline is missing
            line = b"\n" + line
        else:
            end -= len(last)
        file.truncate(end)
        try:
            file.write(line)
            file.flush()
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise


def _unfinished_line(file: IO[bytes], end: int) -> bytes:
    """What stands behind the last newline; no more than a byte is read where that is nothing."""
    file.seek(max(0, end - 1))
    if file.read() in (b"", b"\n"):
        return b""
    file.seek(max(0, end - LONGEST_LINE))
    return file.read().rpartition(b"\n")[2]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, a line each, but for a last one that a killed run cut short.

    Raises:
        RepaError: if it cannot be read, or another line is no JSON object.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RepaError(f"cannot read {path}: {error.strerror}") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError):
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise RepaError(
                f"{path} is damaged: line {number} is not a JSON object (remove the line)"
            ) from None
        found.append(value)
    return found
