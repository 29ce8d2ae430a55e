"""From images to a prepared dataset, and from there to training samples."""

from __future__ import annotations

from pathlib import Path

from repa.data.prepared import PreparedDataset
from repa.data.released import ReleasedDataset, is_released_layout
from repa.data.uvit import UViTDataset, is_uvit_layout

ImageDataset = PreparedDataset | ReleasedDataset | UViTDataset


def open_dataset(folder: str | Path) -> ImageDataset:
    """A prepared dataset, the layout of the release's preprocessing, or U-ViT's features.

    Raises:
        RepaError: if there is none of them, or it is damaged.
    """
    if is_released_layout(Path(folder)):
        return ReleasedDataset(folder)
    if is_uvit_layout(Path(folder)):
        return UViTDataset(folder)
    return PreparedDataset(folder)


__all__ = ["ImageDataset", "PreparedDataset", "open_dataset"]
