"""Training metrics: one JSON line at a time, and the trackers of accelerate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from repa.checkpoints.state import Progress
from repa.errors import RepaError
from repa.files import append_json, read_json_lines, to_json, write_atomically

LARGEST = 1e30  # of values that are added up, in float32


class MetricsLog:
    """Averages losses on the device and writes them down when asked.

    Nothing waits for the device between two calls of `write`. Values that are not finite, or so
    large that their sum might not be, are left out of the averages.

    Args:
        path: the JSONL file; lines of steps after `step` are dropped, a killed run left them.
        accelerator: averages over processes and owns the trackers.
        step: the step that training starts from.
        batch_size: samples a step over all processes, for the rate.
        progress: what had been gathered at that step, if that is known.
    """

    def __init__(
        self,
        path: Path,
        accelerator: Accelerator,
        step: int,
        batch_size: int,
        progress: Progress | None = None,
    ):
        self.path = path
        self.accelerator = accelerator
        self.batch_size = batch_size
        self.previous_seconds = 0.0
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._written = step
        self._started = self._since = time.perf_counter()
        if accelerator.is_main_process:
            kept = keep_until(path, step)
            self.previous_seconds = kept[-1].get("seconds", 0.0) if kept else 0.0
        if progress is not None:
            self._go_on(progress)

    def add(self, values: dict[str, Tensor]) -> None:
        """Scalars of one batch; a step may have several, and not all of them have every scalar."""
        for name, value in values.items():
            value = value.detach().float()
            counted = value.abs() < LARGEST
            value = torch.where(counted, value, 0.0)
            if name in self._sums:
                self._sums[name] = self._sums[name] + value
                self._counts[name] = self._counts[name] + counted
            else:
                self._sums[name], self._counts[name] = value, counted.float()

    def write(self, step: int, skipped: int = 0) -> dict[str, float]:
        """Averages since the last call, and the rate in images/s; waits for the device.

        Args:
            step: that was just taken.
            skipped: steps left out so far, written down if there are any.
        """
        now = time.perf_counter()
        metrics = self._averages()
        metrics["images_per_second"] = (
            (step - self._written) * self.batch_size / (now - self._since)
        )
        if skipped:
            metrics["skipped_steps"] = skipped
        if self.accelerator.is_main_process:
            append_json(self.path, {"step": step, "seconds": self._seconds(now), **metrics})
        self.accelerator.log(metrics, step=step)
        self._sums, self._counts, self._written, self._since = {}, {}, step, now
        return metrics

    def progress(self) -> Progress:
        """What has been gathered since the last call of `write`; all processes call it together."""
        now = time.perf_counter()
        sums, counts = self._everyones()
        return Progress(
            sums=dict(zip(self._sums, sums.T.tolist(), strict=True)),
            counts=dict(zip(self._sums, counts.T.tolist(), strict=True)),
            written=self._written,
            seconds=self._seconds(now),
            unwritten_seconds=now - self._since,
        )

    def _go_on(self, progress: Progress) -> None:
        """With other processes than there were, each has their mean: steps weigh the same."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        for gathered, own in ((progress.sums, self._sums), (progress.counts, self._counts)):
            for name, values in gathered.items():
                same = len(values) == processes
                value = values[process] if same else sum(values) / len(values)
                own[name] = torch.tensor(value, device=self.accelerator.device).float()
        self._written = progress.written
        self._since -= progress.unwritten_seconds
        self.previous_seconds = progress.seconds

    def _seconds(self, now: float) -> float:
        return self.previous_seconds + now - self._started

    def _averages(self) -> dict[str, float]:
        """Of the finite values; a metric without any is left out."""
        sums, counts = (x.sum(0).tolist() for x in self._everyones())
        triples = zip(self._sums, sums, counts, strict=True)
        return {name: total / count for name, total, count in triples if count}

    def _everyones(self) -> tuple[Tensor, Tensor]:
        """Sums and counts of all processes (P, metrics), float32."""
        if not self._sums:
            return torch.zeros(1, 0), torch.zeros(1, 0)
        own = torch.stack([torch.stack([*d.values()]) for d in (self._sums, self._counts)])
        every = self.accelerator.gather(own[None])  # (P, 2, metrics)
        return every[:, 0].cpu(), every[:, 1].cpu()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what happens inside out of the rate."""
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started


def keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Drops the lines of later steps, if there is such a file; returns the others.

    Raises:
        RepaError: if it cannot be written, or a line other than an unfinished last one is damaged.
    """
    if not path.exists():
        return []
    lines = read_json_lines(path)
    for number, line in enumerate(lines, 1):
        if not isinstance(line.get("step"), int):
            raise RepaError(f"{path} is damaged: line {number} has no step (remove the line)")
    kept = [line for line in lines if line["step"] <= step]
    with writing_to(path):
        write_atomically(path, b"".join(map(to_json, kept)))
    return kept


@contextmanager
def writing_to(place: Path) -> Iterator[None]:
    """Says in one line why files of a run cannot be written.

    Args:
        place: what is written, where the system does not name it.

    Raises:
        RepaError: if they cannot; its checkpoints are as they were.
    """
    try:
        yield
    except OSError as error:
        raise RepaError(
            f"{error.filename or place} cannot be written: {error.strerror or error}; the same "
            "command goes on from the newest checkpoint"
        ) from None
