"""Sets of images to compare: an npz archive, a folder of files, or a prepared dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repa.data import open_dataset
from repa.data.format import MANIFEST
from repa.data.images import decode_image
from repa.data.released import is_released_layout
from repa.data.sources import open_source
from repa.errors import RepaError


class ImageSet:
    """Images in a fixed order.

    Args:
        path: npz with `arr_0` (N, H, W, 3) uint8; a folder or zip of image files of one size; or a
            prepared dataset.

    Raises:
        RepaError: if it is none of these or is broken.
    """

    def __init__(self, path: Path):
        self.path = path
        self._read: Callable[[range], np.ndarray]
        self._size: tuple[int, int] | None = None  # of the first image decoded
        if (path / MANIFEST).exists() or is_released_layout(path):
            dataset = open_dataset(path)
            self._read, self._count = dataset.images, len(dataset)
        elif path.suffix == ".npz":
            self._array = _read_npz(path)
            self._read, self._count = self._slice, len(self._array)
        else:
            self._source = open_source(str(path))
            self._read, self._count = self._decode, len(self._source.items)

    def __len__(self) -> int:
        return self._count

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Images (n, 3, H, W), uint8."""
        for start in range(0, len(self), batch_size):
            indices = range(start, min(start + batch_size, len(self)))
            yield torch.from_numpy(np.ascontiguousarray(self._read(indices)))

    def _slice(self, indices: range) -> np.ndarray:
        return self._array[indices.start : indices.stop].transpose(0, 3, 1, 2)

    def _decode(self, indices: range) -> np.ndarray:
        images = []
        for index in indices:
            name = self._source.items[index].name
            try:
                image = decode_image(self._source.read(index))
            except Exception as error:  # whatever a decoder makes of broken bytes
                raise RepaError(f"{self.path}: {name} is no readable image: {error}") from None
            self._size = self._size or image.size
            if image.size != self._size:
                raise RepaError(f"{self.path}: {name} is {image.size}; others are {self._size}")
            images.append(np.asarray(image).transpose(2, 0, 1))
        return np.stack(images)


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            array = archive["arr_0"]
    except Exception as error:  # broken bytes raise almost anything
        reason = " ".join(str(error).split())
        raise RepaError(f"{path}: no readable npz with arr_0: {reason}") from None
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise RepaError(
            f"{path}: arr_0 is {array.dtype} {array.shape}; expected uint8 (N, H, W, 3)"
        )
    return array
