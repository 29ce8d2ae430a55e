"""Sets of images to compare: an npz archive, a folder of files, or a prepared dataset."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repa.data import open_dataset
from repa.data.arrays import checksum
from repa.data.format import MANIFEST
from repa.data.images import decode_image
from repa.data.released import is_released_layout
from repa.data.sources import Source, open_source
from repa.data.uvit import is_uvit_layout
from repa.errors import RepaError
from repa.evaluation.npz import NpzImages

PICKED_BATCH = 256  # images read at a time on the way to some of an npz
THREADS = min(8, os.cpu_count() or 1)  # that decode files


class ImageSet:
    """Images in a fixed order, read by and by.

    Attributes:
        size: height and width of all of them.
        classes: names of the classes, in the order of the labels; None where they are not known.

    Args:
        path: npz with `arr_0` (N, H, W, 3) uint8; a folder or zip of image files of one size; or a
            prepared dataset.

    Raises:
        RepaError: if it is none of these or is broken.
    """

    def __init__(self, path: Path):
        self.path = path
        self.size: tuple[int, int]
        self.classes: tuple[str, ...] | None = None
        self._read: Callable[[range, int], Iterator[np.ndarray]]  # batches (n, 3, H, W)
        if (path / MANIFEST).exists() or is_released_layout(path) or is_uvit_layout(path):
            self._dataset = open_dataset(path)
            self._count, self._read = len(self._dataset), self._from_dataset
            self.size = (self._dataset.manifest.resolution,) * 2
            self.classes = tuple(self._dataset.manifest.classes)
        elif path.suffix == ".npz":
            self._archive = NpzImages(path)
            self._count, self._read = len(self._archive), self._from_npz
            self.size = self._archive.shape[1:3]
        else:
            self._source = _open_files(path)
            self._count, self._read = len(self._source.items), self._from_files
            self.size = self._decode(0).shape[1:]

    def __len__(self) -> int:
        return self._count

    @cached_property
    def labels(self) -> Tensor | None:
        """The classes of the images (N,), int64: a prepared dataset's, or those that `repa sample`
        drew them for, by its record beside the npz. None where they are not known, and for samples
        of texts: what is recorded of these are numbers of prompts."""
        if hasattr(self, "_dataset"):
            return torch.tensor(self._dataset.labels)
        if hasattr(self, "_archive"):
            return _recorded_labels(self.path.with_suffix(".json"), len(self))
        return None

    def batches(self, batch_size: int, wanted: range | None = None) -> Iterator[Tensor]:
        """Images (n, 3, H, W), uint8, of a contiguous range; of all by default.

        The next batch is read while this one is used.
        """
        batches = self._read(range(len(self)) if wanted is None else wanted, batch_size)
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = ahead.submit(next, batches, None)
                yield torch.from_numpy(batch)

    def pick(self, indices: Sequence[int]) -> Tensor:
        """Images (n, 3, H, W), uint8, at these places in this order; places may repeat.

        An npz is read through as far as the last of them, in one go.
        """
        spans = [range(index, index + 1) for index in sorted(set(indices))]
        if hasattr(self, "_archive"):
            spans = [range(min(indices), max(indices) + 1)]
        wanted, found = set(indices), {}
        for span in spans:
            images = (image for batch in self._read(span, PICKED_BATCH) for image in batch)
            for index, image in zip(span, images, strict=True):
                if index in wanted:
                    found[index] = image.copy()  # not a view that keeps its batch
        return torch.from_numpy(np.stack([found[index] for index in indices]))

    def _from_dataset(self, wanted: range, batch_size: int) -> Iterator[np.ndarray]:
        for start in range(wanted.start, wanted.stop, batch_size):
            yield self._dataset.images(range(start, min(start + batch_size, wanted.stop)))

    def _from_npz(self, wanted: range, batch_size: int) -> Iterator[np.ndarray]:
        for images in self._archive.read(wanted, batch_size):
            yield images.transpose(0, 3, 1, 2).copy(order="C")

    def _from_files(self, wanted: range, batch_size: int) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(wanted.start, wanted.stop, batch_size):
                indices = range(start, min(start + batch_size, wanted.stop))
                images = list(pool.map(self._decode, indices))
                for index, image in zip(indices, images, strict=True):
                    if image.shape[1:] != self.size:
                        raise RepaError(
                            f"{self.path}: {self._source.items[index].name} is "
                            f"{shown_size(image.shape[1:])}; others are {shown_size(self.size)}"
                        )
                yield np.stack(images)

    def _decode(self, index: int) -> np.ndarray:
        """An image (3, H, W)."""
        try:
            image = decode_image(self._source.read(index))
        except RepaError:
            raise
        except Exception as error:  # whatever a decoder makes of broken bytes
            name = self._source.items[index].name
            raise RepaError(f"{self.path}: {name} is no readable image: {error}") from None
        return np.asarray(image).transpose(2, 0, 1)


def _recorded_labels(path: Path, count: int) -> Tensor | None:
    """The classes in a record of `repa sample`; None if it is none, as any file may be so called,
    or is of samples of texts."""
    try:
        record = json.loads(path.read_bytes())
        if "prompts" in record.get("request", {}):
            return None
        labels = np.array(record["labels"])
    except (AttributeError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if labels.shape != (count,) or labels.dtype != np.int64:
        return None
    return torch.from_numpy(labels)


def _open_files(path: Path) -> Source:
    try:
        return open_source(str(path))
    except RepaError as error:
        if str(path) in str(error):
            raise
        raise RepaError(f"{path}: {error}") from None  # a source is called by its last name


def digest(path: Path) -> str:
    """SHA-256, in hexadecimal, that tells a set of images or statistics from others.

    Of a file, its bytes; of a prepared dataset, its manifest's, which holds the checksums of the
    images; of another folder, the listing of its files, `NAME SIZE` a line, sorted; of what is no
    file, such as a packaged set, the source's listing.
    """
    if (path / MANIFEST).exists():
        path = path / MANIFEST
    if path.is_file():
        return checksum(path)
    if path.is_dir():
        files = ((p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file())
        lines = "".join(f"{name} {file.stat().st_size}\n" for name, file in sorted(files))
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
    return open_source(str(path)).fingerprint


def shown_size(size: tuple[int, ...]) -> str:
    """Height and width as a user has them."""
    height, width = size
    return f"{width}x{height}"
