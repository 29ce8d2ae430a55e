"""Plain .npy files: written row by row, read by mapping."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

# Python's parser, which numpy reads headers with, now and then fails in several threads at once
# ("AST constructor recursion depth mismatch", python/cpython issue 106905).
PARSING = threading.Lock()


class ArrayWriter:
    """An .npy file that grows by rows, so that no more than a batch is in memory.

    The first rows decide shape and type. The checksum is taken on the way, with a header for the
    expected number of rows; if there are fewer, both are made anew at the end.

    Args:
        path: of the file, made with the first rows.
        expected_rows: how many will probably come.
    """

    def __init__(self, path: Path, expected_rows: int):
        self.path = path
        self.expected_rows = expected_rows
        self.rows = 0
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()

    def append(self, rows: np.ndarray) -> None:
        """Adds rows (n, ...) of the shape and type of those before."""
        if self._file is None:
            self._row_shape, self._dtype = rows.shape[1:], rows.dtype
            self._file = self.path.open("wb")
            header = self._header(self.expected_rows)
            self._file.write(header)
            self._digest.update(header)
        if (rows.shape[1:], rows.dtype) != (self._row_shape, self._dtype):
            raise ValueError(
                f"{self.path.name}: {rows.dtype} rows of {rows.shape[1:]} after {self._dtype} rows "
                f"of {self._row_shape}"
            )
        data = np.ascontiguousarray(rows).data.cast("B")
        self._file.write(data)
        self._digest.update(data)
        self.rows += len(rows)

    def close(self) -> str | None:
        """Makes the file whole and durable; its SHA-256, or None if there were no rows."""
        if self._file is None:
            return None
        if self.rows != self.expected_rows:
            self._file.seek(0)
            self._file.write(self._header(self.rows))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest() if self.rows == self.expected_rows else checksum(self.path)

    def _header(self, rows: int) -> bytes:
        """Of the same length for any number of rows: numpy pads it for that."""
        buffer = io.BytesIO()
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue()


def close_writers(writers: Mapping[str, ArrayWriter]) -> dict[str, str]:
    """Closes the writers of files NAME.npy; the SHA-256 of each that has rows, by file name."""
    digests = {f"{name}.npy": writer.close() for name, writer in writers.items()}
    return {name: digest for name, digest in sorted(digests.items()) if digest is not None}


def load_array(path: Path, mapped: bool = False) -> np.ndarray:
    """The array in an .npy file, of numbers; never code.

    Args:
        path: of the file.
        mapped: as numpy maps it, not in memory.

    Raises:
        Exception: whatever numpy makes of a missing or broken file.
    """
    check_regular(path)
    with PARSING:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("an archive, not an array")
    return array


def map_array(path: Path) -> np.ndarray:
    """The array in an .npy file, mapped for reading.

    numpy's own mapping keeps its file open, and the shards of ImageNet are more files than a
    process may have open (1024 by default); torch's does not.

    Raises:
        Exception: whatever numpy makes of a missing or broken file.
    """
    array: Any = load_array(path, mapped=True)  # checks it, finds the offset
    if not array.flags.c_contiguous:
        raise ValueError("an array in Fortran order")
    size = array.offset + array.nbytes
    mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    result = mapped[array.offset :].view(array.dtype).reshape(array.shape)
    result.flags.writeable = False
    return result


def check_regular(path: Path) -> None:
    """Whether reading comes to an end, as it may not of a pipe or device.

    Raises:
        OSError: if there is no such file, or it is another thing.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: if it cannot be read, or is a pipe or device.
    """
    check_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
