"""A step of training: from a loader's arrays to changed weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from repa.training.batches import BatchMaker
from repa.training.ema import EMA
from repa.training.sharding import full_tensor, prepare


class TrainingStep:
    """Forward and backward pass of a batch; where its gradients are whole, the optimizer and EMA.

    `accelerator.sync_gradients` says whether they were: not if more batches are accumulated.
    Where a loss or gradient is not finite, in any process, weights and moments stay as they are in
    all of them. That is decided on the device, and `grad_norm` says it: it is not finite then. The
    average goes on towards the weights.

    Args:
        accelerator: device, processes, precision, and how many batches are accumulated.
        make_batch: from arrays to batches on the device.
        module: from batches to losses.
        optimizer: of the module's parameters.
        ema: of the module's backbone.
        max_grad_norm: to which the gradients' norm is clipped.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        make_batch: BatchMaker,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: EMA,
        max_grad_norm: float,
    ):
        self._fused: Any = optimizer  # accelerate wraps it
        self.accelerator = accelerator
        self.make_batch = make_batch
        self.module, self.optimizer = prepare(accelerator, module, optimizer)
        self.ema = ema
        self.max_grad_norm = max_grad_norm

    def __call__(self, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of the batch, and `grad_norm` before clipping where the optimizer stepped."""
        accelerator = self.accelerator
        with accelerator.accumulate(self.module):
            with accelerator.autocast():
                batch = self.make_batch(arrays)
            losses: dict[str, Tensor] = self.module(batch)
            accelerator.backward(losses["loss"] * _one_if_finite(losses["loss"]))
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
                losses["grad_norm"] = full_tensor(norm)
                if accelerator.scaler is None:  # which sees to it itself
                    self._skip_unless_finite(losses["grad_norm"])
            self.optimizer.step()
            self.optimizer.zero_grad()
        if accelerator.sync_gradients:
            self.ema.update()
        return losses

    def _skip_unless_finite(self, grad_norm: Tensor) -> None:
        """Tells the optimizer's fused kernel what a gradient scaler would tell it."""
        self._fused.found_inf = (~grad_norm.isfinite()).float()


def _one_if_finite(loss: Tensor) -> Tensor:
    """1, or NaN, so that a loss that is not finite has such gradients, which all processes see."""
    return torch.where(loss.detach().isfinite(), 1.0, torch.nan)
