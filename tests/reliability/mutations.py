"""What a broken disk or an enemy makes of a file, for tests that read such files."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from repa.errors import LONGEST, RepaError

PATIENCE = 30  # seconds of one trial; the machine may be busy
DEEP = "@deep@"
HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2**31, 10**30, -(10**30), 0.5, 1e308, float("inf"), float("nan"),
    "", "a", "\n", "a\nb\x1b[2J", "\x00", "../../x", "/etc/passwd", "/dev/zero", "\ud800",
    "x" * 9999,
    [], {}, [[]], [None], {"": {}}, [1, "a", None], DEEP,
]  # fmt: skip
VALUES = st.recursive(
    st.sampled_from(HOSTILE) | st.text(max_size=8) | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


class TooLong(BaseException):
    """A trial that does not come to an end; no `except Exception` takes it for something else."""


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with a few of them changed, cut out, put in, doubled or cut off."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([1, 2, 4, 8, 64, 512])))
        match draw(st.sampled_from(["bit", "bytes", "cut", "insert", "double", "truncate"])):
            case "bit" if start < len(data):
                new = data[start] ^ (1 << draw(st.integers(0, 7)))
                data = data[:start] + bytes([new]) + data[start + 1 :]
            case "bytes":
                new = draw(st.binary(min_size=stop - start, max_size=stop - start))
                data = data[:start] + new + data[stop:]
            case "cut":
                data = data[:start] + data[stop:]
            case "insert":
                data = data[:start] + draw(st.binary(max_size=16)) + data[start:]
            case "double":
                data = data[:stop] + data[start:]
            case "truncate":
                data = data[:start]
    return data


@st.composite
def mutated_json(draw: st.DrawFn, document: Any) -> bytes:
    """A JSON document with one value replaced, removed, renamed or put in, as text."""
    document = json.loads(json.dumps(document))
    places = list(_places(document))
    holder, key = draw(st.sampled_from(places))
    match draw(st.sampled_from(["replace", "remove", "rename", "add"])):
        case "remove":
            del holder[key]
        case "rename" if isinstance(holder, dict):
            holder[_printed(draw(VALUES))] = holder.pop(key)
        case "add" if isinstance(holder, list):
            holder.insert(key, draw(VALUES))
        case _:
            holder[key] = draw(VALUES)
    text = json.dumps(document).replace(f'"{DEEP}"', "[" * 50_000 + "]" * 50_000)
    return text.encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _printed(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


@contextmanager
def only_documented() -> Iterator[None]:
    """Lets pass what is allowed to come of a stranger's file: nothing, or a `RepaError` of a line.

    Anything else is raised; so is `TooLong` if it does not come to an end.
    """

    def ring(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    except RepaError as error:
        if not str(error).isprintable() or not 0 < len(str(error)) <= LONGEST + 5:
            raise AssertionError("not one line") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Checks that no file below a folder is made, changed or removed."""
    before = _listing(folder)
    yield
    assert _listing(folder) == before


@contextmanager
def bounded_memory(limit: int = 1 << 30) -> Iterator[None]:
    """Checks that this process never takes so many bytes more than now; where Linux tells."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far
        before = _kilobytes("VmRSS")
    except OSError:
        yield
        return
    yield
    assert (_kilobytes("VmHWM") - before) * 1024 < limit


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path, _, files in os.walk(folder):
        for file in files:
            status = os.stat(os.path.join(path, file), follow_symlinks=False)
            found[os.path.join(path, file)] = (status.st_size, status.st_mtime_ns)
    return found
