"""Steps whose loss or gradients are not finite: left out, counted, and written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from repa.checkpoints.state import Progress
from repa.data.visits import Visits
from repa.errors import RepaError
from repa.files import append_json
from repa.sampling.transfer import Fetched
from repa.training.batch_statistics import describe
from repa.training.log import keep_until, writing_to
from repa.training.module import Batch

CHUNK = 32  # images read again at a time


class SkippedSteps:
    """Looks after the gradients' norm of each step, without waiting for the device.

    The optimizer leaves a step out by itself if the norm is not finite (`TrainingStep`). Here that
    is noticed one step later: the step's images are read again and a line about them is added to
    `skipped.jsonl`, by the main process. All processes see the same norms.

    Args:
        path: the file; lines of steps after that of `progress` are dropped, a killed run left them.
        visits: what training reads.
        make_batch: from what was read to a batch.
        images_a_step: visits a step, over all processes.
        limit: so many skipped steps in a row are an error.
        progress: the counts to go on from.
        step: the step that training starts from.
        accelerator: says which process writes.
    """

    def __init__(
        self,
        path: Path,
        visits: Visits,
        make_batch: Callable[[Mapping[str, Any]], Batch],
        images_a_step: int,
        limit: int,
        progress: Progress,
        step: int,
        accelerator: Accelerator,
    ):
        self.path = path
        self.visits = visits
        self.make_batch = make_batch
        self.images_a_step = images_a_step
        self.limit = limit
        self.total, self.in_row = progress.skipped, progress.skipped_in_row
        self.accelerator = accelerator
        self._pending: tuple[int, Fetched] | None = None
        if accelerator.is_main_process:
            keep_until(path, step)

    def watch(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Looks at the step before, and remembers this one.

        Args:
            step: that was just taken.
            losses: scalars of its last batch, and `grad_norm`.

        Raises:
            RepaError: if too many steps in a row were skipped, or the file cannot be written.
        """
        self.look()
        self._names = sorted(losses)
        self._pending = step, Fetched(*(losses[name].detach() for name in self._names))

    def look(self) -> None:
        """Looks at the newest step, waiting for it.

        Raises:
            RepaError: as `watch`.
        """
        if self._pending is None:
            return
        step, fetched = self._pending
        self._pending = None
        losses = dict(zip(self._names, map(float, fetched.wait()), strict=True))
        if math.isfinite(losses["grad_norm"]):
            self.in_row = 0
            return
        self.total += 1
        self.in_row += 1
        if self.accelerator.is_main_process:
            self._write(step, losses)
        if self.in_row >= self.limit:
            raise RepaError(
                f"{self.in_row} steps in a row, the last of them {step}, had a loss or gradients "
                f"that are not finite and were skipped: {self.path} has their images. A lower "
                "--learning-rate, --qk-norm or another --mixed-precision may help; --resume-step "
                "goes on from an earlier checkpoint"
            )

    def counts(self) -> dict[str, int]:
        """What a checkpoint's `Progress` says of them, as of the newest step that was looked at."""
        return {"skipped": self.total, "skipped_in_row": self.in_row}

    def _write(self, step: int, losses: Mapping[str, float]) -> None:
        visits = range((step - 1) * self.images_a_step, step * self.images_a_step)
        indices = [self.visits.index(visit) for visit in visits]
        tensors, broken = describe(self._batches(visits))
        record = {
            "step": step,
            "losses": {name: x if math.isfinite(x) else str(x) for name, x in losses.items()},
            "tensors": tensors,
            "images_not_finite": [indices[place] for place in broken],
            "images": indices,
        }
        with writing_to(self.path):
            append_json(self.path, record)

    @torch.no_grad()
    def _batches(self, visits: range) -> Iterator[Batch]:
        for start in range(0, len(visits), CHUNK):
            arrays = self.visits.read(visits[start : start + CHUNK])
            with self.accelerator.autocast():
                yield self.make_batch(arrays)
