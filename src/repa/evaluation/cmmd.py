"""CMMD: maximum mean discrepancy of CLIP embeddings (Jayasumana et al., CVPR 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from repa.evaluation.blocks import Rows, squared_distances

SIGMA = 10.0  # of the Gaussian kernel
SCALE = 1000.0  # which makes readable numbers of it


def cmmd(real: Tensor, fake: Tensor, device: torch.device | str = "cpu") -> float:
    """`1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y))`, `k = exp(-|x - y|^2 / (2 10^2))`.

    This is the biased estimate (a V-statistic: pairs of a point with itself count), as published.
    Computed in float64 and in blocks.

    Args:
        real: embeddings (N, D) of length 1, floating, N >= 1.
        fake: embeddings (M, D) of length 1, floating, M >= 1.
        device: where to compute.

    Returns:
        The discrepancy, at least 0 but for rounding.

    Raises:
        ValueError: if a set is empty or the dimensions differ.
    """
    if real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 1:
        raise ValueError(f"sets of {tuple(real.shape)} and {tuple(fake.shape)}")
    center = real.mean(0, dtype=torch.float64)
    x, y = Rows(real, center, device), Rows(fake, center, device)
    return SCALE * (_mean_within(x) + _mean_within(y) - 2 * _mean_between(x, y))


def _mean_within(x: Rows) -> float:
    total = 0.0
    for at_rows, rows in x.blocks():
        for at_columns, columns in x.blocks(at_rows.start):
            kernel = _kernel_sum(rows, columns)
            total += kernel if at_columns == at_rows else 2 * kernel
    return total / len(x) ** 2


def _mean_between(x: Rows, y: Rows) -> float:
    blocks = (_kernel_sum(rows, columns) for _, rows in x.blocks() for _, columns in y.blocks())
    return sum(blocks) / (len(x) * len(y))


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    return squared_distances(x, y).mul_(-1 / (2 * SIGMA**2)).exp_().sum().item()
