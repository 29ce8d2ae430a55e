"""The path between data and noise, and the velocity along it (SiT, Sec. 2)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

PathType = Literal["linear", "cosine"]
Weighting = Literal["uniform", "lognormal"]


class Interpolant:
    """`x_t = alpha(t) x + sigma(t) e` between data x (t = 0) and noise e ~ N(0, I) (t = 1).

    `linear`: alpha = 1 - t, sigma = t. `cosine`: alpha = cos(pi t / 2), sigma = sin(pi t / 2).
    """

    def __init__(self, path_type: PathType = "linear"):
        if path_type not in get_args(PathType):
            raise ValueError(f"unknown path type {path_type!r}: {get_args(PathType)}")
        self.path_type = path_type

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma and their derivatives in t, each of t's shape and dtype."""
        if self.path_type == "linear":
            return 1 - t, t, -torch.ones_like(t), torch.ones_like(t)
        angle = t * (math.pi / 2)
        alpha, sigma = angle.cos(), angle.sin()
        return alpha, sigma, -math.pi / 2 * sigma, math.pi / 2 * alpha

    def interpolate(self, x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy sample and the velocity there.

        Args:
            x, noise: data and noise (N, ...).
            t: times (N,) in [0, 1].

        Returns:
            `x_t = alpha x + sigma e` and `v = alpha' x + sigma' e`, both (N, ...).
        """
        t = t.view(-1, *[1] * (x.dim() - 1))
        alpha, sigma, d_alpha, d_sigma = self.coefficients(t)
        return alpha * x + sigma * noise, d_alpha * x + d_sigma * noise

    def score(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The score of p_t at x: with r = alpha / alpha', `(r v - x) / (sigma^2 - r sigma' sigma)`.

        Args:
            velocity, x: (N, ...).
            t: a scalar tensor in (0, 1].
        """
        alpha, sigma, d_alpha, d_sigma = self.coefficients(t)
        ratio = alpha / d_alpha
        return (ratio * velocity - x) / (sigma**2 - ratio * d_sigma * sigma)

    def sample_time(self, uniform: Tensor, weighting: Weighting = "uniform") -> Tensor:
        """Training times from uniform numbers, one each.

        `uniform`: t = u. `lognormal` (EDM): s = exp(n) for n ~ N(0, 1); t = s / (1 + s) on the
        linear path, (2 / pi) atan(s) on the cosine path, so that sigma / alpha = s on both.

        Args:
            uniform: numbers in [0, 1), any shape, float.

        Returns:
            Times in [0, 1), of the same shape and dtype.
        """
        if weighting == "uniform":
            return uniform
        if weighting != "lognormal":
            raise ValueError(f"unknown weighting {weighting!r}: {get_args(Weighting)}")
        s = torch.special.ndtri(uniform.double()).exp()  # u = 0 gives exp(-inf) = 0: no NaN
        t = s / (1 + s) if self.path_type == "linear" else 2 / math.pi * torch.atan(s)
        return t.to(uniform.dtype)
