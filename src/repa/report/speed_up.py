"""How soon runs get to the plain run's final distance, and how that is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from repa.report.charts import count, shown
from repa.report.crossings import Crossing, Factor, Pair, compare
from repa.report.evaluations import METRICS, Protocol, distance_of, evaluations, values
from repa.report.groups import Group, baseline_of
from repa.report.runs import RunRecord
from repa.report.times import minutes_at

Over = Literal["step", "minutes"]
OVER: tuple[Over, ...] = ("step", "minutes")


@dataclass(frozen=True)
class Arrival:
    """Where a group first gets to the baseline's final distance, in one or more pairs."""

    name: str
    pairs: tuple[Pair, ...]
    over: Over = "step"
    of: str = "seed"  # what there is a pair for each of

    @property
    def crossings(self) -> list[Crossing]:
        """Of the pairs whose run gets there."""
        return [pair.crossing for pair in self.pairs if pair.crossing is not None]

    @property
    def at(self) -> float:
        """The crossing, on average, if any run gets there."""
        return fmean(crossing.at for crossing in self.crossings)

    def sentence(self, target: str) -> str:
        """The finding in words, without a period; `target` names what was to be reached."""
        if self.crossings:
            return f"{self.name} reaches {target} {self.clause}"
        last = max(pair.last for pair in self.pairs)
        where = f"by step {shown(last)}" if self.over == "step" else f"in {_minutes(last)}"
        with_any = f" with any {self.of}" if len(self.pairs) > 1 else ""
        return f"{self.name} does not reach {target} {where}{with_any}"

    @property
    def clause(self) -> str:
        """Where it gets there, if it does, and how much sooner: `at step 200, 2.0 times sooner`."""
        where, reached = self._where(), len(self.crossings)
        if reached < len(self.pairs):
            where += f" with {reached} of {count(len(self.pairs), self.of)}"
        return ", ".join(part for part in (where, self._how()) if part)

    def _where(self) -> str:
        if self.over == "minutes":
            return f"after {_minutes(self.at)}"
        if len(self.crossings) == 1:
            crossing = self.crossings[0]
            if crossing.at == crossing.high:
                return f"{'by' if crossing.low is None else 'at'} step {shown(crossing.high)}"
        return f"at about step {shown(round(_rounded(self.at)))}"

    def _how(self) -> str:
        factors = [pair.factor for pair in self.pairs if pair.factor is not None]
        if len(factors) == 1:
            return _in_words(factors[0])
        return _mean_in_words(factors, self.of) if factors else ""


@dataclass(frozen=True)
class SpeedUp:
    """How soon the other groups get to the baseline's final distance.

    Attributes:
        baseline: the group's name.
        key: of the distance.
        target: its last value, on average.
        arrivals: one for each other group that was evaluated alike.
        is_mean: whether it is that of several runs.
    """

    baseline: str
    key: str
    target: float
    arrivals: tuple[Arrival, ...]
    is_mean: bool = False

    @property
    def target_name(self) -> str:
        """`plain's final FID 12.3`."""
        mean = "mean " if self.is_mean else ""
        return f"{self.baseline}'s {mean}final {METRICS[self.key][0]} {shown(self.target)}"

    def of(self, name: str) -> Arrival | None:
        """That of one group."""
        return next((arrival for arrival in self.arrivals if arrival.name == name), None)


def speed_up(groups: Sequence[Group], protocol: Protocol, over: Over = "step") -> SpeedUp | None:
    """Where each group first gets to the baseline's final distance.

    None if there is nothing to compare, as where all were evaluated at one step, or if `over` is
    minutes and the log of a run that was evaluated does not tell them.
    """
    runs = [run for group in groups for run in group.runs]
    key = distance_of(runs, protocol)
    if key is None or len({s for run in runs for s in values(evaluations(run, protocol), key)}) < 2:
        return None
    curves = {run.name: curve(run, protocol, key, over) for run in runs}
    if None in curves.values():
        return None
    known = {name: points for name, points in curves.items() if points}
    baseline = baseline_of(groups)
    finals = [known[r.name][max(known[r.name])] for r in baseline.runs if r.name in known]
    arrivals = []
    for group in groups:
        if group is baseline:
            continue
        pairs, of = _pairs(baseline, group, known)
        if pairs:
            found = tuple(compare(known[base], known[run]) for base, run in pairs)
            arrivals.append(Arrival(group.name, found, over, of))
    if not arrivals:
        return None
    return SpeedUp(baseline.name, key, fmean(finals), tuple(arrivals), len(finals) > 1)


def curve(
    run: RunRecord, protocol: Protocol, key: str, over: Over = "step"
) -> dict[float, float] | None:
    """The values of a metric by step, or by minutes of training; None if these are not known."""
    found = values(evaluations(run, protocol), key)
    places = {s: s if over == "step" else minutes_at(run.metrics, s) for s in found}
    known = {at: found[step] for step, at in places.items() if at is not None}
    return known if len(known) == len(found) else None


def _pairs(
    baseline: Group, group: Group, known: Mapping[str, object]
) -> tuple[list[tuple[str, str]], str]:
    """Names of runs to compare, and what there is a pair for each of.

    Those of equal seed where both groups are repeated, else each with each.
    """
    pairs = [(b, r) for b in baseline.runs for r in group.runs if {b.name, r.name} <= known.keys()]
    same = [(b, r) for b, r in pairs if b.options.get("seed") == r.options.get("seed")]
    paired = baseline.is_repeated and group.is_repeated and len(same) > 1
    names = [(b.name, r.name) for b, r in (same if paired else pairs)]
    return names, "pair" if baseline.is_repeated and not paired else "seed"


def _in_words(factor: Factor) -> str:
    """`1.6 times sooner (between 1.3 and 2.0)`."""
    text, is_later = _times(factor.value)
    factor = factor.inverse if is_later else factor
    if factor.bound:
        return f"{factor.bound} {text}"
    low, high = (None if end is None else f"{end:.1f}" for end in (factor.low, factor.high))
    if low == high:  # both are the value
        return text
    if high is None:
        return f"{text} (at least {low})"
    return f"{text} (at most {high})" if low is None else f"{text} (between {low} and {high})"


def _mean_in_words(factors: Sequence[Factor], of: str) -> str:
    """`1.6 times sooner, 1.43 to 1.91 over 3 seeds`; `at least` where one is only that."""
    mean = fmean(factor.value for factor in factors)
    text, is_later = _times(mean)
    found = [factor.inverse if is_later else factor for factor in factors]
    bounds = {factor.bound for factor in found} - {""}
    if len(bounds) > 1:
        return ""
    values = [factor.value for factor in found]
    over = f"{min(values):.2f} to {max(values):.2f} over {count(len(found), of)}"
    return f"{' '.join([*bounds, text])}, {over}"


def _times(factor: float) -> tuple[str, bool]:
    """`1.6 times sooner`, and whether it is later instead."""
    if f"{factor:.1f}" == "1.0":
        return "as soon", False
    if factor > 1:
        return f"{factor:.1f} times sooner", False
    return f"{1 / factor:.1f} times later", True


def _minutes(value: float) -> str:
    return f"{shown(_rounded(value))} min of training"


def _rounded(value: float) -> float:
    """To three digits: more is not known."""
    return float(f"{value:.3g}")
