"""What the numbers of a batch are like, to find those that broke a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from repa.training.module import Batch


class Statistics:
    """Of a tensor's finite values, gathered over parts of a batch."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self.count, self.not_finite = 0, 0
        self.sum, self.squares = 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """More values (...), of any kind of number."""
        finite = values[values.isfinite()].double()
        self.not_finite += values.numel() - finite.numel()
        if finite.numel():
            self.low = min(self.low, finite.min().item())
            self.high = max(self.high, finite.max().item())
            self.count += finite.numel()
            self.sum += finite.sum().item()
            self.squares += finite.square().sum().item()

    def record(self) -> dict[str, float | int | None]:
        """`min`, `max`, `mean`, `std` (None where no value is finite) and `not_finite`, a count."""
        if not self.count:
            nothing = dict.fromkeys(("min", "max", "mean", "std"))
            return {**nothing, "not_finite": self.not_finite}
        mean = self.sum / self.count
        return {
            "min": self.low,
            "max": self.high,
            "mean": mean,
            "std": max(0.0, self.squares / self.count - mean**2) ** 0.5,
            "not_finite": self.not_finite,
        }


def describe(
    batches: Iterable[Batch],
) -> tuple[dict[str, dict[str, float | int | None]], list[int]]:
    """Statistics of each of a batch's tensors, and which of its images are not all finite.

    Args:
        batches: the batch in parts.

    Returns:
        {name: see `Statistics.record`}; `targets_0` is of the first encoder. And the images' places
        in the batch, from 0.
    """
    statistics: dict[str, Statistics] = {}
    broken: list[int] = []
    start = 0
    for batch in batches:
        whole = torch.ones(len(batch.x), dtype=torch.bool, device=batch.x.device)
        for name, values in _tensors(batch):
            statistics.setdefault(name, Statistics()).add(values)
            whole &= values.flatten(1).isfinite().all(1) if values.ndim > 1 else values.isfinite()
        broken += [start + int(i) for i in (~whole).nonzero()]
        start += len(batch.x)
    return {name: found.record() for name, found in statistics.items()}, broken


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    yield "x", batch.x
    yield "y", batch.y
    yield "noise", batch.noise
    yield "time_uniform", batch.time_uniform
    for number, target in enumerate(batch.targets):
        yield f"targets_{number}", target
