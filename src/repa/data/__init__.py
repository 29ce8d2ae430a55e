"""From images to a prepared dataset, and from there to training samples."""

from __future__ import annotations

from pathlib import Path

from repa.data.prepared import PreparedDataset
from repa.data.released import ReleasedDataset, is_released_layout

ImageDataset = PreparedDataset | ReleasedDataset


def open_dataset(folder: str | Path) -> ImageDataset:
    """A prepared dataset, or the layout of the release's preprocessing.

    Raises:
        RepaError: if there is neither, or it is damaged.
    """
    if is_released_layout(Path(folder)):
        return ReleasedDataset(folder)
    return PreparedDataset(folder)


__all__ = ["ImageDataset", "PreparedDataset", "open_dataset"]
