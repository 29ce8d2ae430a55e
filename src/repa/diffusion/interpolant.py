"""The path between data and noise, and what a prediction on it says (SiT, Sec. 2)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

ObjectiveName = Literal["flow", "ddpm"]
PathType = Literal["linear", "cosine"]
Prediction = Literal["v", "eps", "x"]
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
            t: times in [0, 1], (N,) or a scalar tensor.

        Returns:
            `x_t = alpha x + sigma e` and `v = alpha' x + sigma' e`, both (N, ...).
        """
        alpha, sigma, d_alpha, d_sigma = self._coefficients_like(x, t)
        return alpha * x + sigma * noise, d_alpha * x + d_sigma * noise

    def split(
        self, prediction: Tensor, kind: Prediction, x_t: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Data and noise, as a prediction says: the solution of `x_t = alpha x + sigma e` and of

        - v: `v = alpha' x + sigma' e`, at all times;
        - eps: `e = prediction`, where alpha > 0 (before t = 1);
        - x: `x = prediction`, where sigma > 0 (after t = 0).

        Args:
            prediction, x_t: (N, ...).
            kind: what is predicted.
            t: times, (N,) or a scalar tensor.

        Returns:
            x and e, both (N, ...).
        """
        alpha, sigma, d_alpha, d_sigma = self._coefficients_like(x_t, t)
        if kind == "eps":
            return (x_t - sigma * prediction) / alpha, prediction
        if kind == "x":
            return prediction, (x_t - alpha * prediction) / sigma
        if kind != "v":
            raise ValueError(f"unknown prediction {kind!r}: {get_args(Prediction)}")
        determinant = alpha * d_sigma - sigma * d_alpha  # 1, or pi / 2 on the cosine path
        x = (d_sigma * x_t - sigma * prediction) / determinant
        return x, (alpha * prediction - d_alpha * x_t) / determinant

    def velocity(self, prediction: Tensor, kind: Prediction, x_t: Tensor, t: Tensor) -> Tensor:
        """The velocity (N, ...) that a prediction stands for; see `split`."""
        if kind == "v":
            return prediction
        x, noise = self.split(prediction, kind, x_t, t)
        _, velocity = self.interpolate(x, noise, t)
        return velocity

    def score(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The score of p_t at x, `-e / sigma` with the noise e that the velocity stands for.

        With r = alpha / alpha' that is `(r v - x) / (sigma^2 - r sigma' sigma)` (SiT, Eq. 9).

        Args:
            velocity, x: (N, ...).
            t: times in (0, 1], (N,) or a scalar tensor.
        """
        _, sigma, _, _ = self._coefficients_like(x, t)
        _, noise = self.split(velocity, "v", x, t)
        return -noise / sigma

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

    def _coefficients_like(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`coefficients`, shaped to be multiplied with x (N, ...)."""
        return self.coefficients(t.view(-1, *[1] * (x.dim() - 1)) if t.dim() else t)
