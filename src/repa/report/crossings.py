"""How much sooner than the plain run another one gets to its final distance, and how sure that is.

The distance is known at evaluated steps only. A run passes the target between the last evaluated
step before and the first one at or below it (the bracket); on the straight line between these two
points it passes at the crossing

    x = x0 + (d0 - target) / (d0 - d1) * (x1 - x0),

x in steps or in minutes of training. The speed-up is the baseline's own crossing over the run's,
and its range follows from the ends of the brackets. The target is the baseline's last distance: if
it is there for the first time at its last step, its crossing is that step, without a bracket. A run
that has passed the target when it is first evaluated may have done so at any time before: its
speed-up is at least what this step gives.

Runs of repeated experiments are compared in pairs of equal seed, each with its own target. Then the
speed-up is the mean over pairs, and its range the lowest and the highest of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Crossing:
    """Where a curve first gets to a target: at `at`, not before `low`, not after `high`.

    `low` is None if it is there at its first point.
    """

    at: float
    low: float | None
    high: float


@dataclass(frozen=True)
class Factor:
    """How many times sooner, below 1 later; None for an end of the range that is not known."""

    value: float
    low: float | None
    high: float | None

    @property
    def bound(self) -> str:
        """What stands before the value if it is an end of the range and the other is not known."""
        if self.high is None and self.low == self.value:
            return "at least"
        return "at most" if self.low is None and self.high == self.value else ""

    @property
    def inverse(self) -> Factor:
        """How many times later."""
        low, high = (None if end is None else 1 / end for end in (self.high, self.low))
        return Factor(1 / self.value, low, high)


@dataclass(frozen=True)
class Pair:
    """A run and the baseline that it is compared with.

    Attributes:
        target: the baseline's last distance.
        crossing: where the run gets there; None if it does not.
        factor: None without a crossing, if one of the two is at 0, or if neither end of its range
            is known.
        last: where the run was evaluated last.
    """

    target: float
    crossing: Crossing | None
    factor: Factor | None
    last: float


def compare(baseline: Mapping[float, float], run: Mapping[float, float]) -> Pair:
    """Where a run gets to the baseline's last distance, from distances by step or by minutes."""
    last = max(baseline)
    target = baseline[last]
    own, theirs = crossing(baseline, target), crossing(run, target)
    if own is None or theirs is None:  # the first never is: the last point is at the target
        return Pair(target, theirs, None, max(run))
    if own.high == last:
        own = Crossing(last, last, last)
    return Pair(target, theirs, _factor(own, theirs), max(run))


def crossing(points: Mapping[float, float], target: float) -> Crossing | None:
    """Where the distance is first not above the target; see the formula above."""
    before = None
    for x in sorted(points):
        if points[x] <= target:
            if before is None:
                return Crossing(x, None, x)
            share = (points[before] - target) / (points[before] - points[x])
            return Crossing(x if share == 1 else before + share * (x - before), before, x)
        before = x
    return None


def _factor(baseline: Crossing, run: Crossing) -> Factor | None:
    if not baseline.at or not run.at:
        return None
    low = baseline.low / run.high if baseline.low else None
    high = baseline.high / run.low if run.low else None
    return None if low is high is None else Factor(baseline.at / run.at, low, high)
