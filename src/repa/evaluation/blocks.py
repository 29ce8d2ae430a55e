"""Squared distances between two sets of features, block by block: memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 28  # of two blocks of features, of their distances and of one copy of these


def block_side(dim: int, block_bytes: int | None = None) -> int:
    """Rows of a block of features of width `dim`, at least 1.

    With s rows, two blocks of features are 16 s dim bytes, two of distances 16 s^2.
    """
    area = (BLOCK_BYTES if block_bytes is None else block_bytes) / 16
    return max(1, int(((dim * dim + 4 * area) ** 0.5 - dim) / 2))


class Rows:
    """Features (N, D), floating, of which blocks are taken in float64 to a device.

    Args:
        features: anywhere, in any precision: no copy of the whole is made.
        center: (D,) float64, subtracted: distances do not change, and their rounding gets smaller.
        device: where blocks go.
    """

    def __init__(self, features: Tensor, center: Tensor, device: torch.device | str):
        self.features = features
        self.center = center.to(device)
        self.device = device

    def __len__(self) -> int:
        return len(self.features)

    def blocks(self, start: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Blocks (n, D) with their places, from row `start` on."""
        side = block_side(self.features.shape[1])
        for first in range(start, len(self), side):
            place = slice(first, min(first + side, len(self)))
            yield place, self.features[place].to(self.device).double() - self.center


def squared_distances(x: Tensor, y: Tensor, slack: float = 0.0) -> Tensor:
    """`|x|^2 + |y|^2 - 2 x y` of rows (n, D) and (m, D): (n, m), not clamped at 0.

    Args:
        x, y: float64.
        slack: the squared norms count less by this share, which lets rounding favor nearness.
    """
    x_norms, y_norms = ((1 - slack) * rows.square().sum(1) for rows in (x, y))
    return (x_norms[:, None] + y_norms).addmm_(x, y.T, alpha=-2)
