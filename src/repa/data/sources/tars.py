"""Tar files by random access. Nothing is extracted: headers are read once, contents by offset."""

from __future__ import annotations

import os
import re
import sys
import tarfile
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain, product, zip_longest
from pathlib import Path
from typing import BinaryIO

from repa.data.sources.files import MAX_IMAGE_FILE, check_inside, is_wanted
from repa.errors import RepaError, first_line

TAR = re.compile(r"\.(tar|tgz|tbz2?|txz|tar\.\w+)$", re.IGNORECASE)
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MAX_TARS = 100_000
MAX_OPEN = 4  # files, in each process
BLOCK = tarfile.BLOCKSIZE

Fields = dict[str, tuple[int, int]]  # of one sample: offset and size by field, such as "jpg"


def expand_braces(pattern: str) -> list[Path]:
    """The paths that a pattern such as `train-{0000..0146}.tar` stands for, in order.

    Raises:
        RepaError: if there are none or absurdly many.
    """
    ranges = [(int(m[1]), int(m[2]), len(m[1])) for m in BRACES.finditer(pattern)]
    count = 1
    for low, high, _ in ranges:
        count *= max(high - low + 1, 0)
    if not 0 < count <= MAX_TARS:
        raise RepaError(f"{pattern} stands for {count} files; expected 1 to {MAX_TARS}")
    numbers = [[f"{n:0{width}d}" for n in range(low, high + 1)] for low, high, width in ranges]
    text = BRACES.split(pattern)[::3]  # between the two numbers of each range
    choices = product(*numbers)
    return [Path("".join(chain(*zip_longest(text, c, fillvalue="")))) for c in choices]


def index_tar(path: Path, file: BinaryIO) -> tuple[dict[str, Fields], bool]:
    """Where everything in a tar is.

    Args:
        path: of the tar, for messages.
        file: the tar, opened.

    Returns:
        Fields by sample, in the order of the tar; and whether the tar is whole. One that is cut off
        or damaged is used as far as it goes, with a warning.

    Raises:
        RepaError: if it is no tar, compressed, or has a member whose name leads out of it.
    """
    samples: dict[str, Fields] = {}
    end = 0  # of the last member
    for member, after in _members(path, file):
        end = after
        if not member.isreg() or member.issparse():  # a folder, link or device
            continue
        check_inside(path, member.name)
        name = "/".join(part for part in member.name.split("/") if part not in ("", "."))
        folder, slash, base = name.rpartition("/")
        stem, _, field = base.partition(".")
        if is_wanted(name):  # of a name that occurs twice the later file counts, as tar does it
            sample = samples.setdefault(folder + slash + stem, {})
            sample[field.lower()] = (member.offset_data, member.size)
    is_whole = os.pread(file.fileno(), BLOCK, end) == bytes(BLOCK)
    if not is_whole:
        print(
            f"warning: {path} is cut off or damaged after byte {end}; using what comes before",
            file=sys.stderr,
        )
    return samples, is_whole


class TarReader:
    """Contents of files in tars, by offset. A few tars stay open, in each process its own."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self._rows: dict[str, int] = {}
        self._places = (array("L"), array("Q"), array("Q"))  # arrays: there may be millions
        self._open: OrderedDict[Path, BinaryIO] = OrderedDict()

    def add(self, name: str, tar: int, offset: int, size: int) -> None:
        """Notes where the file of that name is."""
        self._rows[name] = len(self._rows)
        for numbers, value in zip(self._places, (tar, offset, size), strict=True):
            numbers.append(value)

    def read(self, name: str) -> bytes:
        tar, offset, size = (numbers[self._rows[name]] for numbers in self._places)
        if size > MAX_IMAGE_FILE:  # a file with holes takes next to nothing on a disk
            raise ValueError(f"{size} bytes; expected at most {MAX_IMAGE_FILE}")
        path = self.paths[tar]
        if path not in self._open:
            if len(self._open) == MAX_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[path] = open_tar(path)
        self._open.move_to_end(path)
        # pread has no offset that forked processes could share
        data = os.pread(self._open[path].fileno(), size, offset)
        if len(data) < size:
            raise OSError(f"{path} ends after {len(data)} of {size} bytes")
        return data

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}


def open_tar(path: Path) -> BinaryIO:
    """The file, for reading.

    Raises:
        RepaError: if it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise RepaError(f"cannot read {path}: {error.strerror}") from None


def _members(path: Path, file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The complete members, each with the offset at which it ends."""
    start = os.pread(file.fileno(), 8, 0)
    if start.startswith(COMPRESSED):
        raise RepaError(f"{path} is compressed, which forbids random access: decompress it first")
    try:
        tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
    except Exception as error:  # whatever tarfile makes of other bytes
        raise RepaError(f"{path} is no readable tar: {first_line(error)}") from None
    size = os.fstat(file.fileno()).st_size
    end = 0
    while True:
        try:
            member = tar.next()
        except Exception:  # as above
            return
        tar.members.clear()  # type: ignore[attr-defined]  # there may be millions
        # A damaged header can point backwards, where reading would never end.
        if member is None or tar.offset <= end or member.size < 0:
            return
        if member.isreg() and member.offset_data + member.size > size:
            return
        end = tar.offset
        yield member, end
