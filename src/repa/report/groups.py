"""Runs that differ in nothing but the seed are repetitions: one group, shown by its mean."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from statistics import fmean
from typing import Any

from repa.report.charts import count
from repa.report.evaluations import protocol_of
from repa.report.runs import Line, RunRecord

# What repetitions may differ in: the seed, and where files lie.
FREE = ("seed", "exp_name", "output_dir", "logging_dir")
SPLIT = re.compile(r"([-_. /]s|[-_. /]?seed)?[-_. /=]*$", re.IGNORECASE)


@dataclass(frozen=True)
class Group:
    """Runs with equal options but for the seed; often only one.

    Attributes:
        name: what their names have in common; of a single run, its own.
        runs: one for each seed.
    """

    name: str
    runs: tuple[RunRecord, ...]

    @property
    def is_repeated(self) -> bool:
        """Whether there is more than one run."""
        return len(self.runs) > 1

    @property
    def is_aligned(self) -> bool:
        """Whether its runs were trained with representation alignment."""
        return self.runs[0].is_aligned

    @cached_property
    def mean(self) -> RunRecord:
        """The runs averaged, as if they were one; a single run as it is.

        There is a mean where all runs have a value that have any of its kind: of a metric, of a
        protocol's evaluations, of probes.
        """
        if not self.is_repeated:
            return self.runs[0]
        name, first = f"{self.name}, mean of {count(len(self.runs), 'seed')}", self.runs[0]
        return replace(
            first,
            name=name,
            metrics=_mean_lines([run.metrics for run in self.runs], lambda _: None),
            evaluations=_mean_lines([run.evaluations for run in self.runs], protocol_of),
            probes=mean_rows([run.probes for run in self.runs], name),
            alignments=mean_rows([run.alignments for run in self.runs], name),
        )


def groups_of(runs: Sequence[RunRecord]) -> list[Group]:
    """The runs in groups, in order of appearance.

    Runs of equal options and equal seeds are no repetitions: something else made a difference, such
    as another version. Each of these is by itself.
    """
    alike: dict[str, list[RunRecord]] = {}
    for run in runs:
        options = {name: value for name, value in run.options.items() if name not in FREE}
        alike.setdefault(json.dumps(options, sort_keys=True, default=str), []).append(run)
    found: list[list[RunRecord]] = []
    for same in alike.values():
        seeds = [run.options.get("seed") for run in same]
        found += [same] if len(set(map(str, seeds))) == len(same) else [[run] for run in same]
    found.sort(key=lambda own: runs.index(own[0]))
    names = [_common_name(own) for own in found]
    return [
        Group(name if name and names.count(name) == 1 else own[0].name, tuple(own))
        for name, own in zip(names, found, strict=True)
    ]


def baseline_of(groups: Sequence[Group]) -> Group:
    """The first group without alignment; without any, the first one."""
    plain = [group for group in groups if not group.is_aligned]
    return plain[0] if plain else groups[0]


def compared_with(group: Group, groups: Sequence[Group]) -> Group:
    """The baseline among the groups of this one's objective; if that is itself, among all."""
    objective = group.runs[0].objective
    own = baseline_of([other for other in groups if other.runs[0].objective == objective])
    return baseline_of(groups) if own is group else own


def mean_rows(parts: Sequence[Sequence[Mapping[str, Any]]], name: str) -> list[Line]:
    """Averages of several runs' rows about the same block, time and step.

    Args:
        parts: rows of probes, or of similarities, of each run.
        name: of whom the averages are.
    """
    lines = _mean_lines(
        parts,
        lambda row: (row.get("encoder"), row["weights"]),
        lambda row: (row["step"], row["depth"], row["time"]),
    )
    return [line | {"name": name} for line in lines]


def _common_name(runs: Sequence[RunRecord]) -> str:
    """`repa` of `repa-seed0` and `repa-seed1`."""
    if len(runs) == 1:
        return runs[0].name
    names = [run.name for run in runs]
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
    prefix = "".join(character for character, _ in alike)
    return SPLIT.sub("", re.sub(r"\d+$", "", prefix), count=1)


def _mean_lines(
    parts: Sequence[Sequence[Mapping[str, Any]]],
    kind: Callable[[Mapping[str, Any]], Hashable],
    place: Callable[[Mapping[str, Any]], Hashable] = lambda line: line["step"],
) -> list[Line]:
    """For each kind and place one line, if all parts have it that have any of this kind."""
    by_kind: dict[Hashable, list[dict[Hashable, Mapping[str, Any]]]] = {}
    for part in parts:
        own: dict[Hashable, dict[Hashable, Mapping[str, Any]]] = {}
        for line in part:
            own.setdefault(kind(line), {})[place(line)] = line
        for key, lines in own.items():
            by_kind.setdefault(key, []).append(lines)
    return [
        _mean([lines[where] for lines in several])
        for several in by_kind.values()
        for where in several[0]
        if all(where in lines for lines in several)
    ]


def _mean(lines: Sequence[Mapping[str, Any]]) -> Line:
    """Numbers averaged, if all lines have them; what is equal or no number is the first line's."""
    found: Line = {}
    for key, first in lines[0].items():
        own = [line.get(key) for line in lines]
        numbers = [v for v in own if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) == len(lines):
            found[key] = first if own.count(first) == len(own) else fmean(numbers)
        elif not isinstance(first, int | float):
            found[key] = first
    return found
