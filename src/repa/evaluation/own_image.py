"""Whether an image drawn for a text is more like that text's own picture than like others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def own_nearer(fake: Tensor, real: Tensor, own: Sequence[int]) -> Tensor:
    """For each sample the share of other real images that are farther from it than its own is.

    The mean over samples is the probability that a sample is nearer to its own image than to
    another one drawn at random: 0.5 if it knows nothing of it. Equally far counts as half.

    Args:
        fake: features of the samples (n, D), floating.
        real: features of the real images (N, D), N >= 2.
        own: of each sample, which real image is its own.

    Returns:
        (n,), float64, in [0, 1].
    """
    distances = torch.cdist(fake.double(), real.double())  # (n, N)
    mine = distances[torch.arange(len(fake)), list(own)][:, None]
    farther = (distances > mine).double().sum(1)
    equal = (distances == mine).double().sum(1) - 1  # without itself
    return (farther + equal / 2) / (len(real) - 1)
