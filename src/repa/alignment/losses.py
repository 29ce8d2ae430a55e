"""Alignment losses: how far projected hidden states are from the encoder's tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosine_alignment_loss(projected: Tensor, target: Tensor) -> Tensor:
    """Negative cosine similarity, averaged over samples and tokens (REPA, Eq. 8).

    `L = -mean cos(target, projected)`, normalized in float32 whatever the inputs' precision: in
    half precision the norms overflow in long runs.

    Args:
        projected: projected hidden states (N, T, D), any floating dtype.
        target: the encoder's tokens (N, T, D), any floating dtype.

    Returns:
        A float32 scalar in [-1, 1]; -1 is perfect alignment.

    Raises:
        ValueError: if the shapes differ.
    """
    if projected.shape != target.shape:
        raise ValueError(
            f"projected {tuple(projected.shape)} and target {tuple(target.shape)} differ"
        )
    cosine = F.cosine_similarity(projected.float(), target.float(), dim=-1)  # (N, T)
    return -cosine.mean()
