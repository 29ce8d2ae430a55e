"""What a backbone is trained for: the one interface of flow matching and denoising diffusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from repa.diffusion.ddpm import DDPM
from repa.diffusion.flow_matching import FlowMatching
from repa.diffusion.interpolant import ObjectiveName, PathType, Prediction, Weighting
from repa.diffusion.samplers import Field


class Objective(Protocol):
    """The process from data to noise, the loss of a model that inverts it, and the way back."""

    @property
    def path_type(self) -> PathType | None:
        """The path of a flow."""

    @property
    def modes(self) -> tuple[str, ...]:
        """Names of its samplers, the default first."""

    @property
    def most_steps(self) -> float:
        """Steps that they can take at most."""

    def sample_time(self, uniform: Tensor) -> Tensor:
        """Training times (N,), as the model takes them, from uniform numbers (N,) in [0, 1)."""

    def model_time(self, time: float) -> Tensor:
        """The scalar that the model takes for a time in [0, 1], where 0 is data and 1 noise."""

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noisy sample (N, C, H, W) of data and noise at model times t, (N,) or a scalar."""

    def losses(self, prediction: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Losses of each sample (N,), float32: `denoising_loss` and the parts it is a sum of.

        Args:
            prediction: of the model at the noisy sample, (N, C or 2 C, H, W).
            x, noise: data and noise, (N, C, H, W).
            t: model times (N,).
        """

    def sample(
        self,
        predict: Field,
        noise: Tensor,
        draw_noise: Callable[[int], Tensor],
        mode: str,
        num_steps: int,
        heun: bool = False,
    ) -> Tensor:
        """Samples (N, C, H, W), float64; see `repa.diffusion.samplers`.

        Args:
            predict: the model with its condition, as a `GuidedModel`.
            noise: initial state (N, C, H, W).
            draw_noise: step index -> standard normal noise (N, C, H, W) of that step.
            mode: one of `modes`.
            num_steps: number of steps.
            heun: second order, where the mode has it.
        """


def create_objective(
    name: ObjectiveName,
    path_type: PathType = "linear",
    prediction: Prediction = "v",
    weighting: Weighting = "uniform",
) -> Objective:
    """The objective of a backbone (`Transformer.objective`).

    Args:
        name: "flow" or "ddpm".
        path_type, prediction, weighting: of flow matching; DDPM has its own.
    """
    return DDPM() if name == "ddpm" else FlowMatching(path_type, prediction, weighting)
