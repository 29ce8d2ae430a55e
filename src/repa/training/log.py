"""Training metrics: one JSON line at a time, and the trackers of accelerate."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from repa.files import read_json_lines, write_atomically


class MetricsLog:
    """Averages losses on the device and writes them down when asked.

    Nothing waits for the device between two calls of `write`.

    Args:
        path: the JSONL file; lines of steps after `step` are dropped, a killed run left them.
        accelerator: averages over processes and owns the trackers.
        step: the step that training starts from.
        batch_size: samples a step over all processes, for the rate.
    """

    def __init__(self, path: Path, accelerator: Accelerator, step: int, batch_size: int):
        self.path = path
        self.accelerator = accelerator
        self.batch_size = batch_size
        self.previous_seconds = 0.0
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()
        self._written = step
        self._started = self._since = time.perf_counter()
        if accelerator.is_main_process:
            kept = keep_until(path, step)
            self.previous_seconds = kept[-1]["seconds"] if kept else 0.0

    def add(self, values: dict[str, Tensor]) -> None:
        """Scalars of one batch; a step may have several, and not all of them have every scalar."""
        for name, value in values.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts.update(values.keys())

    def write(self, step: int) -> dict[str, float]:
        """Averages since the last call, and the rate in images/s; waits for the device."""
        names = list(self._sums)
        means = torch.stack([self._sums[name].float() / self._counts[name] for name in names])
        means = self.accelerator.reduce(means, reduction="mean").tolist()
        now = time.perf_counter()
        metrics = dict(zip(names, means, strict=True))
        metrics["images_per_second"] = (
            (step - self._written) * self.batch_size / (now - self._since)
        )
        seconds = self.previous_seconds + now - self._started
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, "seconds": seconds, **metrics}) + "\n")
        self.accelerator.log(metrics, step=step)
        self._sums, self._counts, self._written, self._since = {}, Counter(), step, now
        return metrics

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what happens inside out of the rate."""
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started


def keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Drops the lines of later steps, if there is such a file; returns the others.

    Raises:
        RepaError: if a line other than an unfinished last one is damaged.
    """
    if not path.exists():
        return []
    kept = [line for line in read_json_lines(path) if line["step"] <= step]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return kept
