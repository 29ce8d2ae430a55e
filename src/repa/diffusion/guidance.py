"""Classifier-free guidance on an interval of times (Kynkäänniemi et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Model = Callable[[Tensor, Tensor, Tensor], Tensor]


class GuidedModel:
    """A model's prediction for a condition, as the samplers ask for it.

    `u + scale (c - u)` with the conditional prediction c and the unconditional u, while
    `guidance_low <= time <= guidance_high`; elsewhere, and for a scale of at most 1, c, for which
    the model sees the batch once instead of twice.

    Args:
        model: `model(x, t, condition)` with x (N, ...) and t (N,) in `dtype`.
        condition: labels (N,) or other conditions (N, ...).
        null_condition: what stands for "no condition", N of them; needed for guidance. Where they
            are of another length than the condition, such as texts, the model sees them apart.
        cfg_scale: guidance scale; 1 is none.
        guidance_low, guidance_high: the interval of times, in [0, 1].
        guided_channels: the first so many are guided, the others conditional; all by default.
        dtype: precision of the model's inputs.
    """

    def __init__(
        self,
        model: Model,
        condition: Tensor,
        null_condition: Tensor | None = None,
        cfg_scale: float = 1.0,
        guidance_low: float = 0.0,
        guidance_high: float = 1.0,
        guided_channels: int | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        if cfg_scale > 1 and null_condition is None:
            raise ValueError("guidance needs a null condition")
        self.model = model
        self.condition = condition
        self.null_condition = null_condition
        self.cfg_scale = cfg_scale
        self.guidance_low = guidance_low
        self.guidance_high = guidance_high
        self.guided_channels = guided_channels
        self.dtype = dtype

    def __call__(self, x: Tensor, t: Tensor, time: float | Tensor) -> Tensor:
        """The prediction at (x, t).

        Args:
            x: state (N, ...), float64.
            t: what the model takes for the time, a scalar tensor on the CPU.
            time: when the sampler's step began, in [0, 1]; 1 is noise. It decides on guidance, so
                that both evaluations of a Heun step are of one field.

        Returns:
            Prediction (N, ...), of x's dtype.
        """
        guided = self.cfg_scale > 1 and self.guidance_low <= time <= self.guidance_high
        if not guided or self.null_condition is None:
            return self._evaluate(x, t, self.condition)
        conditional, unconditional = self._evaluate_both(x, t, self.null_condition)
        difference = conditional - unconditional
        if self.guided_channels is None:
            return unconditional + self.cfg_scale * difference
        rest = conditional[:, self.guided_channels :]
        first = (unconditional + self.cfg_scale * difference)[:, : self.guided_channels]
        return torch.cat([first, rest], dim=1)

    def _evaluate_both(self, x: Tensor, t: Tensor, null_condition: Tensor) -> tuple[Tensor, Tensor]:
        """The conditional and the unconditional prediction."""
        if self.condition.shape != null_condition.shape:
            return self._evaluate(x, t, self.condition), self._evaluate(x, t, null_condition)
        both = torch.cat([self.condition, null_condition])
        conditional, unconditional = self._evaluate(torch.cat([x, x]), t, both).chunk(2)
        return conditional, unconditional

    def _evaluate(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        # Filled on the device: copying t there would make the host wait for it each step.
        times = torch.full((len(x),), t.item(), dtype=self.dtype, device=x.device)
        return self.model(x.to(self.dtype), times, condition).to(x.dtype)
