"""Evaluations of runs, those that can be compared, and how much sooner one run gets as far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repa.report.charts import count, shown
from repa.report.runs import Line, RunRecord

METRICS = {  # key in an evaluation: name, whether higher is better
    "fid": ("FID", False),
    "frechet_distance": ("Fréchet distance", False),
    "fd_dinov2": ("FD-DINOv2", False),
    "sfid": ("sFID", False),
    "kid": ("KID", False),
    "kernel_distance": ("kernel distance", False),
    "cmmd": ("CMMD", False),
    "inception_score": ("inception score", True),
    "precision": ("precision", True),
    "recall": ("recall", True),
}
DISTANCES = ("fid", "frechet_distance", "fd_dinov2")  # a network has one of them


@dataclass(frozen=True)
class Protocol:
    """What makes evaluations comparable: the network, and how many samples it judged."""

    network: str
    samples: int  # 0 where it is not told

    def __str__(self) -> str:
        return self.network + (f", {count(self.samples, 'sample')}" if self.samples else "")


@dataclass(frozen=True)
class Arrival:
    """Where a run first gets to another's final distance.

    Attributes:
        run: its name.
        step: the first evaluated step with a distance not above the target; None if there is none.
        times: how many times sooner than the other run, which first got there itself maybe before
            its last step; below 1 is later. None without a step, or if one of the two is 0.
        last_step: the last evaluated step of the run.
    """

    run: str
    step: int | None
    times: float | None
    last_step: int

    def sentence(self, target: str) -> str:
        """The finding in words, without a period; `target` names what was to be reached."""
        if self.step is None:
            return f"{self.run} does not reach {target} by step {shown(self.last_step)}"
        reached = f"{self.run} reaches {target} at step {shown(self.step)}"
        if self.times is None:
            return reached
        if self.times > 1:
            how = f"{self.times:.1f} times sooner"
        else:
            how = "as soon" if self.times == 1 else f"{1 / self.times:.1f} times later"
        return f"{reached}, {how}"


@dataclass(frozen=True)
class SpeedUp:
    """How soon the other runs get to the baseline's final distance.

    Attributes:
        baseline: the run's name.
        key: of the distance.
        target: its last value.
        arrivals: one for each other run that was evaluated alike.
    """

    baseline: str
    key: str
    target: float
    arrivals: tuple[Arrival, ...]

    @property
    def target_name(self) -> str:
        """`plain's final FID 12.3`."""
        return f"{self.baseline}'s final {METRICS[self.key][0]} {shown(self.target)}"


def baseline_of(runs: Sequence[RunRecord]) -> RunRecord:
    """The first run without alignment; without any, the first one."""
    plain = [run for run in runs if not run.is_aligned]
    return plain[0] if plain else runs[0]


def protocols(runs: Sequence[RunRecord]) -> list[Protocol]:
    """Those of all evaluations during training, in order of appearance."""
    return list(dict.fromkeys(_protocol(line) for run in runs for line in run.evaluations))


def evaluations(run: RunRecord, protocol: Protocol) -> list[Line]:
    """A run's evaluations of one protocol, in order of steps."""
    return [line for line in run.evaluations if _protocol(line) == protocol]


def values(lines: Sequence[Line], key: str) -> dict[int, float]:
    """A key's values by step, without those that are no finite numbers."""
    found = ((line["step"], line.get(key)) for line in lines)
    return {
        step: value
        for step, value in found
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def distance_of(runs: Sequence[RunRecord], protocol: Protocol) -> str | None:
    """The key of the distance that the protocol's evaluations have."""
    lines = [line for run in runs for line in evaluations(run, protocol)]
    return next((key for key in DISTANCES if values(lines, key)), None)


def speed_up(runs: Sequence[RunRecord], protocol: Protocol) -> SpeedUp | None:
    """Where each run first gets to the baseline's final distance.

    Only evaluated steps count; nothing is interpolated. None if there is nothing to compare.
    """
    key, baseline = distance_of(runs, protocol), baseline_of(runs)
    if key is None:
        return None
    theirs = values(evaluations(baseline, protocol), key)
    if not theirs:
        return None
    target = theirs[max(theirs)]
    own_step = min(step for step, value in theirs.items() if value <= target)
    arrivals = []
    for run in runs:
        reached = values(evaluations(run, protocol), key)
        if run is baseline or not reached:
            continue
        step = min((step for step, value in reached.items() if value <= target), default=None)
        times = own_step / step if step and own_step else None
        arrivals.append(Arrival(run.name, step, times, max(reached)))
    return SpeedUp(baseline.name, key, target, tuple(arrivals)) if arrivals else None


def _protocol(line: Line) -> Protocol:
    samples = line.get("samples")
    return Protocol(str(line.get("network")), samples if isinstance(samples, int) else 0)
