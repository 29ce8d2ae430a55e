"""Frechet distance of Gaussians fitted to two sets of features (Heusel et al., NeurIPS 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 4096  # of features in float64 at a time


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of a set of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def fit(cls, features: Tensor, device: torch.device | str | None = None) -> Gaussian:
        """The mean and the unbiased covariance of features (N, D), N >= 2.

        Args:
            features: floating; only blocks of them are copied to float64.
            device: where to compute; the result lies where the features lie.
        """
        if features.dim() != 2 or len(features) < 2:
            raise ValueError(f"need at least two rows (N, D); got {tuple(features.shape)}")
        device = features.device if device is None else device
        blocks = features.split(ROWS)
        mean = torch.stack([block.to(device).double().sum(0) for block in blocks]).sum(0)
        mean /= len(features)
        covariance = torch.zeros(2 * features.shape[1:], dtype=torch.float64, device=device)
        for block in blocks:
            centered = block.to(device).double() - mean
            covariance.addmm_(centered.T, centered)
        covariance /= len(features) - 1
        return cls(mean.to(features.device), covariance.to(features.device))


def frechet_distance(real: Tensor | Gaussian, fake: Tensor | Gaussian) -> float:
    """`|m_r - m_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2))`, in float64.

    With factors `C = F F^T`, the eigenvalues of `C_r C_f` are the squared singular values of
    `F_r^T F_f`, so the trace of the root is the sum of these. Nothing is squared on the way, and
    factors have the rank of their covariance: fewer samples than dimensions need no offset and
    cost no accuracy.

    Args:
        real, fake: features (N, D) or statistics already fitted to them.

    Returns:
        The distance, at least 0. With fewer samples than dimensions it is biased upwards; compare
        only numbers from equal sample counts.
    """
    real = real if isinstance(real, Gaussian) else Gaussian.fit(real)
    fake = fake if isinstance(fake, Gaussian) else Gaussian.fit(fake)
    if real.mean.shape != fake.mean.shape:
        raise ValueError(f"{len(real.mean)} dimensions against {len(fake.mean)}")
    trace_of_root = torch.linalg.svdvals(_factor(real).T @ _factor(fake)).sum()
    squared_distance = (real.mean - fake.mean).square().sum()
    traces = real.covariance.trace() + fake.covariance.trace()
    return max((squared_distance + traces - 2 * trace_of_root).item(), 0.0)


def _factor(gaussian: Gaussian) -> Tensor:
    """F (D, R) of the covariance `F F^T`, with R its rank but for rounding."""
    eigenvalues, vectors = torch.linalg.eigh(gaussian.covariance)
    rounding = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues[-1]
    kept = eigenvalues > rounding
    return vectors[:, kept] * eigenvalues[kept].sqrt()
