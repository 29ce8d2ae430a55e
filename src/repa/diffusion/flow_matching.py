"""Flow matching: how SiT is trained, and what its prediction is to a sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from repa.diffusion.interpolant import Interpolant, PathType, Prediction, Weighting
from repa.diffusion.samplers import Field, sample_ode, sample_sde

# A predicted noise says nothing of the data at t = 1, where alpha is 0. Sampling then begins a
# little later, on the linear path with 0.006 of data in the noise, as in DDPM's noisiest step.
NOISE_START = 0.994


class FlowMatching:
    """Training on a path between data and noise: the squared error of v, e or x (SiT, Sec. 2).

    Times run from 0 (data) to 1 (noise).

    Args:
        path_type: "linear" or "cosine".
        prediction: what the model predicts: "v" the velocity, "eps" the noise, "x" the data.
        weighting: distribution of the training times, "uniform" or "lognormal".

    Raises:
        ValueError: if one of them is unknown.
    """

    modes = ("ode", "sde")
    most_steps = math.inf

    def __init__(
        self,
        path_type: PathType = "linear",
        prediction: Prediction = "v",
        weighting: Weighting = "uniform",
    ):
        if prediction not in get_args(Prediction):
            raise ValueError(f"unknown prediction {prediction!r}: {get_args(Prediction)}")
        if weighting not in get_args(Weighting):
            raise ValueError(f"unknown weighting {weighting!r}: {get_args(Weighting)}")
        self.path_type = path_type
        self.interpolant = Interpolant(path_type)
        self.prediction: Prediction = prediction
        self.weighting: Weighting = weighting

    def sample_time(self, uniform: Tensor) -> Tensor:
        return self.interpolant.sample_time(uniform, self.weighting)

    def model_time(self, time: float) -> Tensor:
        return torch.tensor(time)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        x_t, _ = self.interpolant.interpolate(x, noise, t)
        return x_t

    def losses(self, prediction: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        _, velocity = self.interpolant.interpolate(x, noise, t)
        target = {"v": velocity, "eps": noise, "x": x}[self.prediction]
        return {"denoising_loss": squared_error(prediction, target)}

    def sample(
        self,
        predict: Field,
        noise: Tensor,
        draw_noise: Callable[[int], Tensor],
        mode: str,
        num_steps: int,
        heun: bool = False,
    ) -> Tensor:
        def velocity(x: Tensor, t: Tensor, time: Tensor) -> Tensor:
            return self.interpolant.velocity(predict(x, t, time), self.prediction, x, t)

        start = NOISE_START if self.prediction == "eps" else 1.0
        if mode == "ode":
            return sample_ode(velocity, noise, num_steps, heun, start)
        return sample_sde(velocity, noise, num_steps, self.interpolant, draw_noise, start)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """In float32, averaged over each sample: (N, C, H, W) twice to (N,)."""
    return (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
