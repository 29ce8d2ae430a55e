"""Kernel distance, on Inception's features KID (Binkowski et al., ICLR 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from repa.randomness import Purpose, stream

SUBSETS, SUBSET_SIZE = 100, 1000  # as published implementations have them


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> float:
    """Unbiased squared MMD with the kernel `(x y / D + 1)^3`, averaged over random subsets.

    With n points a side (Gretton et al., JMLR 2012, equation 3):

        sum_{i != j} (k(x_i, x_j) + k(y_i, y_j)) / (n (n - 1)) - 2 sum_{i, j} k(x_i, y_j) / n^2

    Args:
        real: features (N, D), floating, N >= 2.
        fake: features (M, D), floating, M >= 2.
        subsets: how many.
        subset_size: rows a side, drawn without replacement; all, if a set has fewer.
        seed: of the subsets.
        device: where to compute, in float64.

    Returns:
        The distance; it can be slightly below 0.

    Raises:
        ValueError: if a set is too small or the dimensions differ.
    """
    size = min(subset_size, len(real), len(fake))
    if real.shape[1] != fake.shape[1] or size < 2:
        raise ValueError(f"sets of {tuple(real.shape)} and {tuple(fake.shape)}")
    if size == len(real) == len(fake):
        subsets = 1  # they would all be the same
    total = 0.0
    for index in range(subsets):
        random = stream(seed, Purpose.ANALYSIS, index)
        x, y = (
            rows[torch.from_numpy(random.choice(len(rows), size, replace=False))].to(device)
            for rows in (real, fake)
        )
        total += _squared_mmd(x.double(), y.double())
    return total / subsets


def _squared_mmd(x: Tensor, y: Tensor) -> float:
    """Of equally many rows (n, D), float64."""
    n = len(x)
    within = sum(kernel.sum() - kernel.trace() for kernel in (_kernel(x, x), _kernel(y, y)))
    return (within / (n * (n - 1)) - 2 * _kernel(x, y).mean()).item()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
