"""Normalization of the encoder's tokens before hidden states are aligned to them."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-6


def spatial_normalization(tokens: Tensor, alpha: float = 1.0) -> Tensor:
    """Each channel's z-scores over the tokens of an image (Singh et al., 2025: iREPA).

    `(y - alpha mean(y)) / (std(y) + 1e-6)`, mean and unbiased deviation over an image's tokens.
    It takes away what all tokens of an image share, which a cosine would mostly reward, and leaves
    how they differ: the spatial structure.

    Args:
        tokens: (N, T, D), any floating dtype, T > 1.
        alpha: how much of the mean is taken away, in [0, 1].

    Returns:
        (N, T, D), float32.
    """
    tokens = tokens.float()
    mean, std = tokens.mean(1, keepdim=True), tokens.std(1, keepdim=True)  # (N, 1, D)
    return (tokens - alpha * mean) / (std + EPSILON)
