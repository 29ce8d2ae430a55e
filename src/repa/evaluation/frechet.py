"""Frechet distance of Gaussians fitted to two sets of features (Heusel et al., NeurIPS 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of a set of features, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Gaussian:
        """The mean and the unbiased covariance of features (N, D), N >= 2."""
        if features.dim() != 2 or len(features) < 2:
            raise ValueError(f"need at least two rows (N, D); got {tuple(features.shape)}")
        features = features.double()
        return cls(features.mean(0), torch.cov(features.T).reshape(features.shape[1], -1))


def frechet_distance(real: Tensor | Gaussian, fake: Tensor | Gaussian) -> float:
    """`|m_r - m_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2))`, in float64.

    The trace of the root is the sum of the roots of the eigenvalues of the symmetric matrix
    `C_r^(1/2) C_f C_r^(1/2)`, which has those of `C_r C_f`, so rank-deficient covariances need no
    offset.

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
    root = _symmetric_sqrt(real.covariance)
    eigenvalues = torch.linalg.eigvalsh(root @ fake.covariance @ root)
    trace_of_root = eigenvalues.clamp(min=0).sqrt().sum()
    squared_distance = (real.mean - fake.mean).square().sum()
    traces = real.covariance.trace() + fake.covariance.trace()
    return max((squared_distance + traces - 2 * trace_of_root).item(), 0.0)


def _symmetric_sqrt(matrix: Tensor) -> Tensor:
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T
