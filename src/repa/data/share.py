"""One process's share of preparing: its shards are cropped and, one behind, encoded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import torch
from tqdm import tqdm

from repa.data.crop import (
    Cropped,
    CroppedShard,
    crop_batches,
    source_batches,
    stream_batches,
    write_shards,
)
from repa.data.encode import Job, check_inputs, encode_shard, missing_jobs
from repa.data.format import ShardRecord, read_manifest, shard_folder
from repa.data.sources import Source, Stream
from repa.data.state import scan_shards


@dataclass(frozen=True)
class Work:
    """How to go about it; none of it changes what comes out, but for rounding.

    Attributes:
        batch_size: images encoded at a time, or all captions of so many.
        num_workers: decoding processes.
        device: where autoencoder and encoders run.
        strict: an item that cannot be decoded ends the run instead of being skipped.
    """

    batch_size: int = 64
    num_workers: int = 2
    device: torch.device | str = "cpu"
    strict: bool = False


class Share:
    """Every n-th shard of a dataset, beginning with the process's own number.

    Args:
        dest: the dataset's folder, with the manifest to work towards.
        source: where the images come from; None if all shards are there.
        process, processes: this process and their number.
    """

    def __init__(self, dest: Path, source: Source | Stream | None, process: int, processes: int):
        manifest = read_manifest(dest)
        assert manifest is not None  # `begin` wrote it
        self.dest = dest
        self.source = source
        self.manifest = manifest
        self.process = process
        self.processes = processes
        there = scan_shards(dest)
        self.records = {n: record for n, record in there.items() if n % processes == process}
        self.items = self._count_items(there)

    def fill(self, jobs: dict[str, Job], work: Work) -> None:
        """Makes the shards that are not there and gives each one what it lacks.

        Args:
            jobs: what to compute from a shard's images and captions, by the array's name.
            work: batch size, workers, device.

        Raises:
            RepaError: if the source is gone, or if `work.strict` and an item cannot be decoded.
        """
        lacking = {
            shard_folder(self.dest, number): record
            for number, record in self.records.items()
            if missing_jobs(jobs, record)
        }
        done = sum(r.items for r in self.records.values()) - sum(r.items for r in lacking.values())
        title = "prepare" if self.processes == 1 else f"prepare, 1 of {self.processes} processes"
        with (
            self._crop(work) as cropped,
            tqdm(
                total=self._total(),
                initial=done,
                unit="image",
                desc=title,
                disable=self.process != 0,
            ) as progress,
        ):
            if not jobs:
                cropped = _counted(cropped, progress.update)
            shards = write_shards(self.dest, cropped, self.manifest.shard_items, work.strict)
            _complete(chain(lacking.items(), shards), jobs, work, progress.update)

    def _numbers(self, items: int) -> range:
        """Of the shards in this share of so many items."""
        return range(self.process, -(-items // self.manifest.shard_items), self.processes)

    def _total(self) -> int | None:
        """Items in this share, if known."""
        size, items = self.manifest.shard_items, self.items
        if items is None and isinstance(self.source, Stream):
            items = self.source.count  # its own word will do for a progress bar
        if items is None:
            return None
        return sum(min(size, items - number * size) for number in self._numbers(items))

    def _count_items(self, there: dict[int, ShardRecord]) -> int | None:
        """Items that the dataset covers, if known. A stream's own word is not relied upon."""
        if isinstance(self.source, Source):
            wanted, items = self.manifest.max_images, len(self.source.items)
            return items if wanted is None else min(wanted, items)
        shard_items = self.manifest.shard_items
        has_end = any(record.items < shard_items for record in there.values())
        if self.source is None or has_end:
            last = max(there)
            return last * shard_items + there[last].items
        return None

    def _crop(self, work: Work) -> AbstractContextManager[Iterator[Cropped]]:
        """The cropped batches of the shards that are not there."""
        endless = count(self.process, self.processes)  # until the stream ends
        numbers = endless if self.items is None else self._numbers(self.items)
        absent = (number for number in numbers if number not in self.records)
        first = next(absent, None)
        if first is None or self.source is None:
            return nullcontext(iter(()))  # and start no workers
        new, size = chain([first], absent), self.manifest.shard_items
        limit = self.manifest.max_images
        if isinstance(self.source, Stream):
            batches = stream_batches(self.source, limit, new, size, work.batch_size)
        else:
            indices = spread(len(self.source.items), limit)
            batches = source_batches(indices, new, size, work.batch_size)
        resolution = self.manifest.resolution
        return crop_batches(self.source, batches, resolution, work.num_workers)


def spread(count: int, wanted: int | None) -> list[int]:
    """Indices of at most `wanted` of `count` items, evenly spread: all classes take part."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [i * count // wanted for i in range(wanted)]


def _counted(batches: Iterator[Cropped], advance: Callable[[int], object]) -> Iterator[Cropped]:
    for cropped in batches:
        advance(len(cropped))
        yield cropped


def _complete(
    shards: Iterable[CroppedShard | tuple[Path, ShardRecord]],
    jobs: dict[str, Job],
    work: Work,
    advance: Callable[[int], object],
) -> None:
    """Finishes and encodes shards in a thread, one behind the cropping of the next."""
    stop = threading.Event()

    def complete(shard: CroppedShard | tuple[Path, ShardRecord]) -> None:
        if isinstance(shard, CroppedShard):
            folder, record = shard.folder, shard.finish()
        else:
            folder, record = shard
            check_inputs(folder, record, jobs)
        if jobs:
            advance(len(record.skipped))
            encode_shard(folder, record, jobs, work.batch_size, work.device, advance, stop)

    with ThreadPoolExecutor(1, "encode") as pool:
        try:
            before: Future | None = None
            for shard in shards:
                now = pool.submit(complete, shard)
                if before is not None:
                    before.result()
                before = now
            if before is not None:
                before.result()
        finally:
            stop.set()  # if this ends with an error, the thread should end too
