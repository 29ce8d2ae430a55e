"""Alignment losses: how far projected hidden states are from the encoder's tokens."""

from __future__ import annotations

import torch
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
    _check_shapes(projected, target)
    cosine = F.cosine_similarity(projected.float(), target.float(), dim=-1)  # (N, T)
    return -cosine.mean()


def nt_xent_alignment_loss(projected: Tensor, target: Tensor, temperature: float = 0.1) -> Tensor:
    """NT-Xent: each projected token should tell its own target from those of its image.

    `L = -mean log softmax_j(cos(projected_i, target_j) / temperature)_i`, j over the tokens of the
    same image (Chen et al., ICML 2020; the alternative to the cosine in REPA's ablation). Tokens of
    other images are left out as negatives: the cost would grow with the square of the batch, and
    the loss would depend on how processes share it.

    Args:
        projected: projected hidden states (N, T, D), any floating dtype.
        target: the encoder's tokens (N, T, D), any floating dtype.
        temperature: of the softmax, above 0.

    Returns:
        A float32 scalar, at least 0; log T if no token is told from another.

    Raises:
        ValueError: if the shapes differ.
    """
    _check_shapes(projected, target)
    with torch.autocast(projected.device.type, enabled=False):  # it would multiply in bf16
        ours, theirs = (F.normalize(x.float(), dim=-1) for x in (projected, target))
        cosines = ours @ theirs.transpose(1, 2)  # (N, T, T)
    own = torch.arange(cosines.shape[1], device=cosines.device).expand(cosines.shape[:2])
    return F.cross_entropy((cosines / temperature).flatten(0, 1), own.flatten())


# A new loss is one function and one line here; `--projection-loss-type` takes its name.
ALIGNMENT_LOSSES = {"cosine": cosine_alignment_loss, "nt-xent": nt_xent_alignment_loss}


def _check_shapes(projected: Tensor, target: Tensor) -> None:
    if projected.shape != target.shape:
        raise ValueError(
            f"projected {tuple(projected.shape)} and target {tuple(target.shape)} differ"
        )
