"""Timing for the benchmarks: several ways to do a thing, alternating in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def medians(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way over some rounds, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values[1:]) for name, values in times.items()}
