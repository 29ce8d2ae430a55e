"""Arrays in npz archives: images read by and by, statistics read whole; never code."""

from __future__ import annotations

import io
import math
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from repa.data.images import MAX_PIXELS
from repa.errors import RepaError, first_line
from repa.zips import METHODS, check_member

IMAGES = "arr_0"
SKIP = 1 << 24  # bytes read at a time where they are not wanted
HEADER = 1 << 12  # bytes that hold the header of any array of images, which has 128


def npz_names(path: Path) -> set[str]:
    """Names of the arrays in an npz.

    Raises:
        RepaError: if it is no readable npz.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception as error:  # broken bytes raise almost anything
        raise RepaError(f"{path}: no readable npz: {first_line(error)}") from None


def read_arrays(path: Path, names: set[str]) -> dict[str, np.ndarray]:
    """Some arrays of an npz, whole.

    Raises:
        RepaError: if one is missing or damaged, holds objects, which are code, or is a
            decompression bomb.
    """
    try:
        with zipfile.ZipFile(path) as members:
            for name in names:
                check_member(members.getinfo(f"{name}.npy"))
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in sorted(names)}
        for name, array in arrays.items():
            _check_kind(name, array)
        return arrays
    except Exception as error:  # broken bytes raise almost anything
        raise RepaError(f"{path}: no readable npz: {' '.join(str(error).split())}") from None


class NpzImages:
    """The images `arr_0` (N, H, W, 3) uint8 of an npz, stored or compressed.

    Reading goes through the archive in order, so that its checksum is verified by whoever reads the
    last image, and only a batch is in memory.

    Args:
        path: of the npz.

    Raises:
        RepaError: if there is no such array in it.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with self._open() as member:
                shape, fortran_order, dtype, self._start = _read_header(member)
                data_bytes = self._file_size - self._start
        except Exception as error:  # broken bytes raise almost anything
            raise self._unreadable(error) from None
        if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or min(shape) < 1:
            raise RepaError(f"{path}: arr_0 is {dtype} {shape}; expected uint8 (N, H, W, 3)")
        if fortran_order:
            raise RepaError(
                f"{path}: arr_0 is in Fortran order; save numpy.ascontiguousarray of it"
            )
        if shape[1] * shape[2] > MAX_PIXELS:
            raise RepaError(
                f"{path}: arr_0 has images of {shape[2]}x{shape[1]} pixels; expected at most "
                f"{MAX_PIXELS} pixels"
            )
        if data_bytes != math.prod(shape):
            raise RepaError(
                f"{path}: no readable npz with arr_0: {data_bytes} bytes of data for {shape}"
            )
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, wanted: range, batch_size: int) -> Iterator[np.ndarray]:
        """Batches (n, H, W, 3) of a contiguous range of the images.

        Raises:
            RepaError: if the archive is damaged.
        """
        image_bytes = int(np.prod(self.shape[1:]))
        try:
            with self._open() as member:
                _skip(member, self._start + wanted.start * image_bytes)
                for start in range(wanted.start, wanted.stop, batch_size):
                    count = min(batch_size, wanted.stop - start)
                    data = member.read(count * image_bytes)
                    yield np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])
        except Exception as error:  # broken bytes raise almost anything
            raise self._unreadable(error) from None

    def _open(self) -> IO[bytes]:
        archive = zipfile.ZipFile(self.path)
        with archive:  # the open member keeps the file
            info = archive.getinfo(f"{IMAGES}.npy")
            if info.compress_type not in METHODS:  # of images all alike any ratio may be right
                check_member(info)
            self._file_size = info.file_size
            return archive.open(f"{IMAGES}.npy")

    def _unreadable(self, error: Exception) -> RepaError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return RepaError(f"{self.path}: no readable npz with arr_0: {reason}")


def _check_kind(name: str, array: object) -> None:
    """Whether it is one of numbers or of texts that Python can have."""
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is no array")
    if array.dtype.kind == "U" and array.size:
        codes = np.frombuffer(array.astype(array.dtype.newbyteorder("=")).tobytes(), np.uint32)
        if codes.max(initial=0) > sys.maxunicode:
            raise ValueError(f"{name} is no text")


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran order, type of an .npy, and where its data start.

    Only so many bytes are read: a header may claim to have gigabytes.
    """
    start = io.BytesIO(member.read(HEADER))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_2_0
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0
    return *read(start), start.tell()


def _skip(member: IO[bytes], count: int) -> None:
    while count > 0:  # seeking would give up the checksum
        count -= len(member.read(min(count, SKIP))) or count
