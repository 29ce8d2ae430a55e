"""Inception Score (Salimans et al., NeurIPS 2016)."""

from __future__ import annotations

from torch import Tensor


def inception_score(probabilities: Tensor, split_size: int = 5000) -> float:
    """`exp(mean KL(p(y|x) || p(y)))`, averaged over successive splits.

    Args:
        probabilities: class probabilities (N, K), rows sum to 1.
        split_size: rows a split, as in ADM's suite; a last, shorter split counts like the others.

    Returns:
        At least 1, at most the number of classes.
    """
    scores = []
    for p in probabilities.double().split(split_size):
        divergence = p.xlogy(p) - p.xlogy(p.mean(0))
        scores.append(divergence.sum(1).mean().exp())
    return (sum(scores) / len(scores)).item()
