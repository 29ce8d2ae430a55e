"""Arrays in npz archives: images read by and by, statistics read whole; never code."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from repa.errors import RepaError, first_line

IMAGES = "arr_0"
SKIP = 1 << 24  # bytes read at a time where they are not wanted


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
        RepaError: if one is missing or damaged, or holds objects, which are code.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in sorted(names)}
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
                shape, fortran_order, dtype = _read_header(member)
                data_bytes = self._file_size - member.tell()
        except Exception as error:  # broken bytes raise almost anything
            raise self._unreadable(error) from None
        if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or 0 in shape:
            raise RepaError(f"{path}: arr_0 is {dtype} {shape}; expected uint8 (N, H, W, 3)")
        if fortran_order:
            raise RepaError(
                f"{path}: arr_0 is in Fortran order; save numpy.ascontiguousarray of it"
            )
        if data_bytes != np.prod(shape, dtype=np.int64):
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
                _read_header(member)
                _skip(member, wanted.start * image_bytes)
                for start in range(wanted.start, wanted.stop, batch_size):
                    count = min(batch_size, wanted.stop - start)
                    data = member.read(count * image_bytes)
                    yield np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])
        except Exception as error:  # broken bytes raise almost anything
            raise self._unreadable(error) from None

    def _open(self) -> IO[bytes]:
        archive = zipfile.ZipFile(self.path)
        self._file_size = archive.getinfo(f"{IMAGES}.npy").file_size
        with archive:  # the open member keeps the file
            return archive.open(f"{IMAGES}.npy")

    def _unreadable(self, error: Exception) -> RepaError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return RepaError(f"{self.path}: no readable npz with arr_0: {reason}")


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type of an .npy; the data come next."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


def _skip(member: IO[bytes], count: int) -> None:
    while count > 0:  # seeking would give up the checksum
        count -= len(member.read(min(count, SKIP))) or count
