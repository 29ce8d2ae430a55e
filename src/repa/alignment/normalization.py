"""Normalization of the encoder's tokens before hidden states are aligned to them.

Tokens of many encoders share a large mean. A cosine with them is high for whoever knows that mean
alone, so little of the alignment loss is about the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TargetNorm = Literal["none", "spatial", "channel"]

EPSILON = 1e-6


def spatial_normalization(tokens: Tensor, alpha: float = 1.0) -> Tensor:
    """Each channel's z-scores over the tokens of an image (iREPA: Singh et al., 2025).

    `(y - alpha mean(y)) / (std(y) + 1e-6)`, mean and unbiased deviation over an image's tokens.
    It takes away what all tokens of an image share and leaves how they differ: the spatial
    structure.

    Args:
        tokens: (N, T, D), any floating dtype, T > 1.
        alpha: how much of the mean is taken away, in [0, 1].

    Returns:
        (N, T, D), float32.
    """
    tokens = tokens.float()
    mean, std = tokens.mean(1, keepdim=True), tokens.std(1, keepdim=True)  # (N, 1, D)
    return (tokens - alpha * mean) / (std + EPSILON)


@dataclass(frozen=True)
class ChannelNormalization:
    """Each channel's z-scores over a dataset: what all of its images share is taken away.

    Attributes:
        mean, std: (D,), float32.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, batches: Iterable[Tensor]) -> ChannelNormalization:
        """Mean and deviation over all tokens of batches (n, T, D), summed in float64."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for tokens in batches:
            rows = tokens.flatten(0, 1).double()
            count += len(rows)
            total = total.to(rows.device) + rows.sum(0)
            squares = squares.to(rows.device) + rows.square().sum(0)
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        return cls(mean.float(), variance.sqrt().float())

    def __call__(self, tokens: Tensor) -> Tensor:
        """`(y - mean) / (std + 1e-6)` of tokens (N, T, D), float32."""
        return (tokens.float() - self.mean) / (self.std + EPSILON)
