"""What a source of images is: items in a fixed order, listed without decoding anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from repa.errors import RepaError

MAX_CLASSES = 1_000_000  # a larger label is a mistake
IMAGE_SUFFIXES = frozenset(
    ["jpg", "jpeg", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "avif"]
)


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source: its name there, its class, and captions if the source has any."""

    name: str
    label: int
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """Columns of a Hugging Face dataset to use; those that are None are found by type and name."""

    image: str | None = None
    label: str | None = None
    caption: str | None = None


class Source:
    """Images with labels, in any order. Can be pickled and read by forked processes.

    Attributes:
        moments: for sources that have latents already: the index-th item's (2 C, H, W) float32.

    Args:
        name: what the user called it, without its folder.
        items: in a fixed order; no two have the same name.
        classes: names of the classes, by label.
        read: gives the bytes of the item of that name.
        origin: what tells the source from others besides its items.

    Raises:
        RepaError: if there is no item.
    """

    moments: Callable[[int], np.ndarray] | None = None

    def __init__(
        self,
        name: str,
        items: list[Item],
        classes: list[str],
        read: Callable[[str], bytes],
        origin: str = "",
    ):
        if not items:
            raise RepaError(f"no image in {name}: expected image files, in one folder a class")
        self.name = printable(name)
        self.items = items
        self.classes = [printable(c) for c in classes]
        self._read = read
        self._origin = origin

    def read(self, index: int) -> bytes:
        """The bytes of the index-th item's file.

        Raises:
            RepaError: if the whole source has become unreadable.
            Exception: if only this item is.
        """
        return self._read(self.items[index].name)

    @cached_property
    def fingerprint(self) -> str:
        """Tells one source from another, wherever it lies: a hash of its listing."""
        listing = json.dumps([[i.name, i.label, i.captions] for i in self.items])
        return hashlib.sha256((listing + self._origin).encode()).hexdigest()


class Stream:
    """Images with labels, in one order only, for what is too large to store.

    Args:
        name: what the user called it, without its folder.
        classes: names of the classes, by label.
        has_captions: whether the items have captions.
        count: number of samples, None if not known beforehand.
        fingerprint: tells one stream from another.
        samples: gives the samples from the n-th on.
    """

    def __init__(
        self,
        name: str,
        classes: list[str],
        has_captions: bool,
        count: int | None,
        fingerprint: str,
        samples: Callable[[int], Iterator[tuple[Item, bytes]]],
    ):
        self.name = printable(name)
        self.classes = [printable(c) for c in classes]
        self.has_captions = has_captions
        self.count = count
        self.fingerprint = fingerprint
        self._samples = samples

    def samples(self, start: int = 0) -> Iterator[tuple[Item, bytes]]:
        """Every item from the start-th on, with its file's bytes (empty if it has none).

        Raises:
            RepaError: if the stream breaks off.
        """
        return self._samples(start)


def printable(name: str) -> str:
    """A file name as text: Linux allows any bytes in names, JSON only Unicode."""
    return name.encode("utf-8", "backslashreplace").decode()


def is_image_name(name: str) -> bool:
    """Whether a file name ends as those of images do."""
    return name.rpartition(".")[2].lower() in IMAGE_SUFFIXES


def number_labels(source: str, values: Sequence[int | str]) -> tuple[list[int], list[str]]:
    """Labels from 0 and the names of their classes.

    Args:
        source: its name, for errors.
        values: each item's label. Integers stand for themselves; names are numbered in
            alphabetical order. Where both occur, the integers are names too.

    Raises:
        RepaError: if an integer is negative or absurdly large.
    """
    if not all(isinstance(value, int) for value in values):
        names = sorted({str(value) for value in values})
        index = {name: label for label, name in enumerate(names)}
        return [index[str(value)] for value in values], names
    labels = [int(value) for value in values]
    for label in (min(labels, default=0), max(labels, default=0)):
        if not 0 <= label < MAX_CLASSES:
            raise RepaError(f"{source} has class {label}; expected 0 to {MAX_CLASSES - 1}")
    return labels, [str(i) for i in range(max(labels, default=-1) + 1)]
