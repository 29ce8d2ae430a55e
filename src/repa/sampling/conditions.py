"""What images are drawn for: class labels, or the tokens of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from repa.data import ImageDataset
from repa.text import TextEncoder

# The conditions (n, ...) of the images at some indices.
Conditions = Callable[[Sequence[int]], Tensor]


def of_labels(labels: np.ndarray) -> Conditions:
    """Image i has class `labels[i]`; conditions are (n,), int64."""

    def conditions(indices: Sequence[int]) -> Tensor:
        return torch.from_numpy(np.asarray(labels[list(indices)], np.int64))

    return conditions


def of_captions(
    dataset: ImageDataset, images: Sequence[int], name: str, encoder: TextEncoder | None
) -> Conditions:
    """Image i has the first caption of the dataset's image `images[i]`, or the empty one.

    Args:
        dataset: has the captions.
        images: which of its images.
        name: of the text encoder, whose tokens (n, L, D) are the conditions.
        encoder: computes them, where the dataset has not stored them.
    """

    def conditions(indices: Sequence[int]) -> Tensor:
        rows = [images[i] for i in indices]
        if encoder is not None:
            return encoder([first_caption(dataset, row) for row in rows])
        return torch.from_numpy(dataset.read_text(name, rows, [0.0] * len(rows)))

    return conditions


def first_caption(dataset: ImageDataset, index: int) -> str:
    """The first caption of an image, or the empty one."""
    return next(iter(dataset.captions(index)), "")
