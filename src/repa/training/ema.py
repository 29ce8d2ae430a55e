"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch

from repa.models import Backbone


class EMA:
    """A frozen copy of a model that follows it: `ema = decay ema + (1 - decay) weights`.

    All tensors are updated in a few fused operations instead of a loop.

    Args:
        model: the model to follow; the copy starts equal to it, in float32.
        decay: in [0, 1).
    """

    def __init__(self, model: Backbone, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).float().requires_grad_(False).eval()
        self.follow(model)

    def follow(self, model: Backbone) -> None:
        """From now on these parameters: sharding replaces a model's, and the average's."""
        self._averages: list[torch.Tensor] = list(self.model.parameters())
        self._weights: list[torch.Tensor] = list(model.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """One step towards the model's weights as they are now."""
        torch._foreach_lerp_(self._averages, self._weights, 1 - self.decay)

    def whole(self, keep: bool = True) -> Backbone | None:
        """The averaged model in one piece, for those who keep it; see `ShardedEMA`."""
        return self.model if keep else None
