"""First half of preparing: from a source's files to shards of cropped images and labels.

Worker processes read, decode and crop; the main process appends what they give to the shard. A
batch never crosses a shard's end, so a shard is the same whoever makes it and whenever.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from repa.data.arrays import ArrayWriter, checksum, close_writers
from repa.data.format import CAPTIONS, ShardRecord, shard_folder, write_record
from repa.data.images import center_crop, decode_image
from repa.data.sources import Item, Source, Stream, printable
from repa.errors import RepaError
from repa.files import to_json, write_atomically

# A disk or network that fails now, too many open files, no memory.
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass(frozen=True)
class Batch:
    """Items of one shard to crop: indices into a source, or items of a stream with their bytes."""

    shard: int
    entries: list[int] | list[tuple[Item, bytes]]


@dataclass
class Cropped:
    """What became of a batch: images (n, 3, R, R) uint8 of the good items, reasons for the bad.

    `moments` (n, 2 C, H, W) float32 are latents that the source had already. `failure` says that
    the source itself is gone. Arrays, not tensors: those would travel through shared memory, of
    which containers often have 64 MB.
    """

    shard: int
    images: np.ndarray
    items: list[Item] = field(default_factory=list)
    moments: np.ndarray | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    failure: RepaError | None = None

    def __len__(self) -> int:
        return len(self.items) + len(self.skipped)


@contextmanager
def crop_batches(
    source: Source | Stream, batches: Iterable[Batch], resolution: int, num_workers: int
) -> Iterator[Iterator[Cropped]]:
    """Worker processes that read, decode and crop batches; the results come in order.

    The workers run from the beginning to the end of the `with` block: started before any thread,
    whose locks a fork would copy, and ended here, as garbage collection may come at a bad moment.
    """
    loader = DataLoader(
        _Cropper(source if isinstance(source, Source) else None, resolution),
        sampler=batches,
        batch_size=None,  # a batch is one "sample": the workers stack
        num_workers=num_workers,
        collate_fn=_as_is,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=partial(_end_with, os.getpid()),
    )
    iterator = iter(loader)
    try:
        yield _unless_killed(iterator)
    finally:
        if num_workers:
            iterator._shutdown_workers()  # type: ignore[attr-defined]


def _end_with(parent: int, _: int) -> None:
    """Ends this worker with the process that started it; PyTorch may wait to empty its pipe."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _unless_killed(results: Iterator[Cropped]) -> Iterator[Cropped]:
    try:
        yield from results
    except RuntimeError as error:
        if not re.search("exited unexpectedly|killed by signal", str(error)):
            raise
        raise RepaError(
            "a decoding process was killed, perhaps for want of memory: lower --num-workers or "
            "--batch-size and run the same again"
        ) from None


def source_batches(
    indices: list[int], shards: Iterable[int], shard_items: int, batch_size: int
) -> Iterator[Batch]:
    """The batches of some shards of a source.

    Args:
        indices: the source's items to use; shard s takes the s-th `shard_items` of them.
        shards: which shards.
        shard_items: items a shard.
        batch_size: items a batch.
    """
    for shard in shards:
        own = indices[shard * shard_items : (shard + 1) * shard_items]
        for start in range(0, len(own), batch_size):
            yield Batch(shard, own[start : start + batch_size])


def stream_batches(
    stream: Stream, limit: int | None, shards: Iterable[int], shard_items: int, batch_size: int
) -> Iterator[Batch]:
    """The batches of some shards of a stream, which is read once, from the first of them on.

    Args:
        stream: samples in a fixed order.
        limit: use only so many of them.
        shards: which shards, ascending; may be endless: the stream's end ends them.
        shard_items, batch_size: samples in each.
    """
    shards = iter(shards)
    wanted = next(shards)
    start = wanted * shard_items
    samples = stream.samples(start)
    if limit is not None:
        samples = islice(samples, max(0, limit - start))
    for number in count(wanted):
        read = 0
        while entries := list(islice(samples, min(batch_size, shard_items - read))):
            read += len(entries)
            if number == wanted:
                yield Batch(number, entries)
        if number == wanted:
            wanted = next(shards, -1)
        if read < shard_items or wanted < 0:
            return


def write_shards(
    dest: Path, batches: Iterable[Cropped], shard_items: int, strict: bool
) -> Iterator[CroppedShard]:
    """Collects cropped batches into shards, each given when its last batch is in.

    Args:
        dest: the dataset's folder.
        batches: in the order of their shards.
        shard_items: how many images a shard will probably have.
        strict: whether an item that cannot be decoded is an error.

    Raises:
        RepaError: if the source is gone, or, with `strict`, at the first bad item.
    """
    for number, group in groupby(batches, key=lambda cropped: cropped.shard):
        shard = CroppedShard(shard_folder(dest, number), shard_items)
        for cropped in group:
            if cropped.failure is not None:
                raise cropped.failure
            for name, reason in cropped.skipped.items():
                if strict:
                    raise RepaError(f"--strict: {name}: {reason}")
                tqdm.write(f"warning: skipped {name}: {reason}", file=sys.stderr)
            shard.add(cropped)
        yield shard


class CroppedShard:
    """A shard's images, labels and captions, in a folder under a temporary name until finished."""

    def __init__(self, folder: Path, expected_images: int):
        self.folder = folder
        self.partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir()
        self.writers = {
            name: ArrayWriter(self.partial / f"{name}.npy", expected_images)
            for name in ("images", "labels", "latents")
        }
        self.captions: list[tuple[str, ...]] = []
        self.skipped: dict[str, str] = {}

    def add(self, cropped: Cropped) -> None:
        """Appends a batch."""
        self.skipped |= cropped.skipped
        if not cropped.items:
            return
        self.captions += [item.captions for item in cropped.items]
        self.writers["images"].append(cropped.images)
        labels = np.array([item.label for item in cropped.items], np.int64)
        self.writers["labels"].append(labels)
        if cropped.moments is not None:
            self.writers["latents"].append(cropped.moments)

    def finish(self) -> ShardRecord:
        """Makes the files durable, writes the record and renames the folder into place."""
        sha256 = close_writers(self.writers)
        if any(self.captions):
            write_atomically(self.partial / CAPTIONS, to_json(self.captions))
            sha256[CAPTIONS] = checksum(self.partial / CAPTIONS)
        record = ShardRecord(
            name=self.folder.name,
            images=len(self.captions),
            skipped=self.skipped,
            sha256=dict(sorted(sha256.items())),
        )
        write_record(self.partial, record)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.partial.rename(self.folder)
        return record


def _as_is(cropped: Any) -> Any:
    return cropped


class _Cropper(Dataset):
    """Crops a batch; in worker processes."""

    def __init__(self, source: Source | None, resolution: int):
        self.source, self.resolution = source, resolution

    def __getitem__(self, batch: Batch) -> Cropped:
        shape = (len(batch.entries), 3, self.resolution, self.resolution)
        cropped = Cropped(batch.shard, np.empty(shape, np.uint8))
        moments = []
        for entry in batch.entries:
            item = self._item(entry)
            try:
                pixels, latent = self._read(entry)
            except RepaError as error:
                cropped.failure = error
                break
            except Exception as error:  # whatever a decoder makes of broken bytes
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                cropped.skipped[printable(item.name)] = printable(reason)
                continue
            cropped.images[len(cropped.items)] = pixels.transpose(2, 0, 1)
            cropped.items.append(item)
            if latent is not None:
                moments.append(latent)
        cropped.images = cropped.images[: len(cropped.items)]
        cropped.moments = np.stack(moments) if moments else None
        return cropped

    def _item(self, entry: int | tuple[Item, bytes]) -> Item:
        return entry[0] if isinstance(entry, tuple) else self._source.items[entry]

    def _read(self, entry: int | tuple[Item, bytes]) -> tuple[np.ndarray, np.ndarray | None]:
        """The cropped pixels (R, R, 3) of an item and the latents, if the source has them."""
        if isinstance(entry, tuple):
            data, latent = entry[1], None
        else:
            data, moments = self._read_bytes(entry), self._source.moments
            latent = moments(entry) if moments else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            image = decode_image(data)
        side = self.resolution
        if latent is not None and image.size != (side, side):  # cropping would part the two
            raise ValueError(f"{image.width}x{image.height} pixels; expected {side}x{side}")
        return center_crop(image, side), latent

    def _read_bytes(self, index: int) -> bytes:
        """An item's file; a fault of the machine, which may pass, is not taken for the file's."""
        try:
            return self._source.read(index)
        except (OSError, MemoryError) as error:
            if isinstance(error, MemoryError) or error.errno in PASSING:
                name = printable(self._source.items[index].name)
                raise RepaError(f"cannot read {name}: {error}; run the same again") from None
            raise

    @property
    def _source(self) -> Source:
        assert self.source is not None  # a stream's entries bring their bytes
        return self.source
