import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from data.preparing import Averages, run, snapshot
from repa.data import PreparedDataset
from repa.data.crop import Batch, crop_batches, source_batches, stream_batches
from repa.data.sources import Item, Source, Stream
from repa.errors import RepaError


class Counted:
    """A stream of pictures that knows what was read of it."""

    def __init__(self, count: int, picture: Callable[..., bytes], broken: tuple[int, ...] = ()):
        self.count, self.picture, self.broken = count, picture, broken
        self.read: list[int] = []

    def samples(self, start: int) -> Iterator[tuple[Item, bytes]]:
        for i in range(start, self.count):
            self.read.append(i)
            data = b"broken" if i in self.broken else self.picture(i)
            yield Item(f"{i:03d}", i % 3, (f"picture {i}",)), data

    def open(self) -> Stream:
        return Stream("pictures", list("abc"), True, None, "0123", self.samples)


@pytest.fixture
def counted(picture: Callable[..., bytes]) -> Counted:
    return Counted(18, picture, broken=(0, 9))


def numbers(batches: Iterator[Batch]) -> list[tuple[int, list[int]]]:
    return [
        (b.shard, [int(e[0].name) if isinstance(e, tuple) else e for e in b.entries])
        for b in batches
    ]


def test_batches_of_a_source_never_cross_a_shards_end() -> None:
    indices = [10 * i for i in range(11)]
    batches = numbers(source_batches(indices, [0, 2], 4, 3))
    assert batches == [(0, [0, 10, 20]), (0, [30]), (2, [80, 90, 100])]


@pytest.mark.parametrize("shards", [[0, 1, 2, 3, 4], [1, 3], [2], [4], [0, 4]])
def test_batches_of_a_stream_are_those_of_a_source(counted: Counted, shards: list[int]) -> None:
    ours = numbers(stream_batches(counted.open(), None, shards, 4, 3))
    assert ours == numbers(source_batches(list(range(18)), shards, 4, 3))
    assert counted.read[0] == 4 * shards[0]  # from there on, once
    assert counted.read == list(range(counted.read[0], counted.read[-1] + 1))


@pytest.mark.parametrize("limit", [1, 4, 5, 16, 18, 100])
def test_a_stream_ends_at_its_end_or_at_the_limit(counted: Counted, limit: int) -> None:
    batches = numbers(stream_batches(counted.open(), limit, itertools.count(), 4, 3))
    assert [i for _, entries in batches for i in entries] == list(range(min(limit, 18)))
    assert max(counted.read) <= limit


def test_the_workers_can_be_started_in_any_way(source: Source) -> None:
    """Where processes are not forked, everything sent to them must be pickled."""
    batches = list(source_batches(list(range(13)), range(4), 4, 3))
    results = []
    for method in (None, "spawn"):
        import multiprocessing

        previous = multiprocessing.get_start_method()
        multiprocessing.set_start_method(method or previous, force=True)
        try:
            with crop_batches(source, batches, 16, 1) as cropped:
                results.append(list(cropped))
        finally:
            multiprocessing.set_start_method(previous, force=True)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        assert (one.shard, one.items, one.skipped) == (other.shard, other.items, other.skipped)


def test_a_killed_worker_ends_the_run_with_one_line(tmp_path: Path, source: Source) -> None:
    """As the kernel does for want of memory."""
    read = source.read

    def die(index: int) -> bytes:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(index)

    source.read = die  # type: ignore[method-assign]
    with pytest.raises(RepaError, match="^a decoding process was killed[^\n]*$"):
        run(source, tmp_path / "out", num_workers=1)
    source.read = read  # type: ignore[method-assign]
    assert run(source, tmp_path / "out", num_workers=1).num_images == 10


@pytest.mark.parametrize("error", [OSError(errno.EIO, "disk on fire"), MemoryError("full")])
def test_a_fault_of_the_machine_is_not_taken_for_the_files(
    tmp_path: Path, source: Source, error: Exception
) -> None:
    read = source.read

    def fail(index: int) -> bytes:
        raise error

    source.read = fail  # type: ignore[method-assign]
    with pytest.raises(RepaError, match="cannot read .*png: .*; run the same again"):
        run(source, tmp_path / "out")
    source.read = read  # type: ignore[method-assign]
    assert run(source, tmp_path / "out").num_images == 10


# Streams through the whole of preparing


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_prepared_like_the_same_source(
    tmp_path: Path, counted: Counted, small_shards: None, workers: int
) -> None:
    items = [item for item, _ in counted.samples(0)]
    source = Source("pictures", items, list("abc"), lambda n: dict(counted_files(counted))[n])
    run(source, tmp_path / "source", Averages())
    manifest = run(counted.open(), tmp_path / "stream", Averages(), num_workers=workers)
    assert (manifest.source.items, manifest.num_images, manifest.num_skipped) == (18, 16, 2)
    one, other = snapshot(tmp_path / "source"), snapshot(tmp_path / "stream")
    del one["manifest.json"], other["manifest.json"]  # fingerprints
    assert one == other
    assert PreparedDataset(tmp_path / "stream").captions(15) == ["picture 17"]


def counted_files(counted: Counted) -> list[tuple[str, bytes]]:
    return [(item.name, data) for item, data in counted.samples(0)]


@pytest.mark.parametrize("fail_at", range(1, 7))
def test_an_interrupted_stream_is_read_from_the_first_missing_shard(
    tmp_path: Path, counted: Counted, small_shards: None, fail_at: int
) -> None:
    run(counted.open(), tmp_path / "whole", Averages())
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="on fire"):
        run(counted.open(), out, Averages(fail_at))
    there = len(list(out.glob("shards/*/shard.json")))
    counted.read.clear()
    run(counted.open(), out, Averages())
    assert snapshot(out) == snapshot(tmp_path / "whole")
    assert counted.read == list(range(4 * there, 18))
    counted.read.clear()
    run(counted.open(), out, Averages())  # finished: its end is known
    assert counted.read == []


def test_a_stream_whose_last_shard_is_full_ends_too(
    tmp_path: Path, picture: Callable[..., bytes], small_shards: None
) -> None:
    counted = Counted(8, picture)
    manifest = run(counted.open(), tmp_path / "out")
    assert [shard.images for shard in manifest.shards] == [4, 4]
    before = snapshot(tmp_path / "out")
    run(counted.open(), tmp_path / "out")
    assert snapshot(tmp_path / "out") == before


def test_a_stream_that_breaks_off_ends_the_run(
    tmp_path: Path, counted: Counted, small_shards: None
) -> None:
    def samples(start: int) -> Iterator[tuple[Item, bytes]]:
        yield from itertools.islice(counted.samples(start), 9)
        raise RepaError("cannot read pictures: connection lost")

    broken = Stream("pictures", list("abc"), True, None, "0123", samples)
    for workers in (0, 2):
        out = tmp_path / str(workers)
        with pytest.raises(RepaError, match="^cannot read pictures: connection lost$"):
            run(broken, out, num_workers=workers)
        run(counted.open(), out)
        assert np.array_equal(PreparedDataset(out).labels, [i % 3 for i in range(18) if i % 9])


def test_strict_ends_at_the_first_broken_item(
    tmp_path: Path, counted: Counted, source: Source
) -> None:
    with pytest.raises(RepaError, match="^--strict: 000: UnidentifiedImageError: not an image$"):
        run(counted.open(), tmp_path / "stream", strict=True)
    with pytest.raises(RepaError, match="^--strict: a/broken.jpg: OSError: image file is trunc"):
        run(source, tmp_path / "source", strict=True, num_workers=2)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux's /proc")
def test_workers_end_with_the_process_that_started_them(
    tmp_path: Path, write_folder, picture: Callable[..., bytes]
) -> None:
    """Even with more results on the way than a pipe holds, which nobody takes any more."""
    write_folder(tmp_path / "pictures", {f"a/{i:03d}.png": picture(i, (64, 64)) for i in range(64)})
    script = """
import os, sys, time
from pathlib import Path
from repa.data.crop import crop_batches, source_batches
from repa.data.sources import open_source

batches = source_batches(list(range(64)), [0], 64, 8)
with crop_batches(open_source("pictures"), batches, 256, num_workers=1) as cropped:
    next(cropped)
    time.sleep(1)
    Path("worker").write_text(Path(f"/proc/self/task/{os.getpid()}/children").read_text())
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, timeout=60)
    [worker] = map(int, (tmp_path / "worker").read_text().split())
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists():
        if time.monotonic() > deadline:
            os.kill(worker, signal.SIGKILL)
            pytest.fail("a worker outlives its killed process")
        time.sleep(0.1)
