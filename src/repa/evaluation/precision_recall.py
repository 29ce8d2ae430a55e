"""Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2048  # rows of the distance matrix in memory at a time


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision and recall of k-nearest-neighbor manifolds.

    A set's manifold is the union of the balls around its points that reach to their k-th nearest
    neighbor. Precision is the share of fake points in the real manifold, recall the share of real
    points in the fake one.

    Args:
        real: features (N, D), floating; N > k.
        fake: features (M, D), floating; M > k.
        k: neighbor that sets the radius; ADM's suite uses 3.

    Returns:
        (precision, recall), both in [0, 1].

    Raises:
        ValueError: if a set is too small or the dimensions differ.
    """
    if real.shape[1] != fake.shape[1] or min(len(real), len(fake)) <= k:
        raise ValueError(f"k = {k} with sets of {tuple(real.shape)} and {tuple(fake.shape)}")
    center = real.double().mean(0)  # distances do not change; rounding gets smaller
    real, fake = real.double() - center, fake.double() - center
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    return _coverage(fake, real, real_radii), _coverage(real, fake, fake_radii)


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Squared distances (block, M) of successive blocks of x (N, D) to all of y (M, D)."""
    y_norms = y.square().sum(1)
    for rows in x.split(BLOCK):
        yield torch.addmm(y_norms + rows.square().sum(1, keepdim=True), rows, y.T, alpha=-2)


def _squared_radii(x: Tensor, k: int) -> Tensor:
    # The nearest of x to itself is itself: the k-th neighbor comes at place k + 1.
    return torch.cat([d.kthvalue(k + 1, dim=1).values for d in _squared_distances(x, x)])


def _coverage(points: Tensor, centers: Tensor, squared_radii: Tensor) -> float:
    inside = [(d <= squared_radii).any(1) for d in _squared_distances(points, centers)]
    return torch.cat(inside).double().mean().item()
