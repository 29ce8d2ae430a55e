"""Curves of groups: of a single run its line, of repetitions their mean and each run faintly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from repa.report.charts import Series
from repa.report.groups import Group
from repa.report.runs import RunRecord


def curves(
    groups: Sequence[Group],
    points_of: Callable[[RunRecord], Mapping[int, float] | Mapping[float, float]],
) -> tuple[Series, ...]:
    """A series of each group that has points, and before it one of each repetition.

    Args:
        groups: whose places decide on their looks.
        points_of: y by x of a run, or of a group's mean; none if there is nothing to show.
    """
    series = []
    for style, group in enumerate(groups):
        mean = _series(group.mean, points_of, style) if group.is_repeated else []
        for run in group.runs:
            series += _series(run, points_of, style, is_faint=bool(mean))
        series += mean
    return tuple(series)


def _series(
    run: RunRecord,
    points_of: Callable[[RunRecord], Mapping[int, float] | Mapping[float, float]],
    style: int,
    is_faint: bool = False,
) -> list[Series]:
    found = points_of(run)
    if not found:
        return []
    return [Series(run.name, tuple(found), tuple(found.values()), style, (), is_faint)]
