"""The flow-matching objective."""

from __future__ import annotations

from torch import Tensor


def velocity_loss(prediction: Tensor, velocity: Tensor) -> Tensor:
    """Squared error in float32, averaged over each sample: (N, C, H, W) twice to (N,)."""
    return (prediction.float() - velocity.float()).square().flatten(1).mean(dim=1)
