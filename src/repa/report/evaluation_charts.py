"""Charts of evaluations over steps and over training time, with what came how much sooner."""

from __future__ import annotations

from collections.abc import Sequence

from repa.report.charts import Chart, Mark, file_name
from repa.report.curves import curves
from repa.report.evaluations import METRICS, Protocol, distance_of, protocols
from repa.report.groups import Group
from repa.report.speed_up import Over, curve, speed_up
from repa.report.times import time_note

AXES: dict[Over, tuple[str, str]] = {
    "step": ("training", "training step"),
    "minutes": ("training time", "training time (minutes)"),
}


def evaluation_charts(groups: Sequence[Group]) -> list[Chart]:
    """Each metric over steps; the distance with where groups reach the baseline's final value.

    Where groups are compared, the distance is also shown over training time, if that is known of
    all runs that have one.
    """
    runs = [run for group in groups for run in group.runs]
    charts = []
    for protocol in protocols(runs):
        distance = distance_of(runs, protocol)
        for key in METRICS:
            aside = distance not in (None, key)
            charts += _charts(groups, protocol, key, "step", aside)
            timed = (curve(run, protocol, key, "minutes") is not None for run in runs)
            if key == distance and len(groups) > 1 and all(timed):
                charts += _charts(groups, protocol, key, "minutes", aside)
    return charts


def _charts(
    groups: Sequence[Group], protocol: Protocol, key: str, over: Over, aside: bool
) -> list[Chart]:
    """One, or none if there is nothing to show."""
    series = curves(groups, lambda run: curve(run, protocol, key, over) or {})
    if not series:
        return []
    label, (of, axis) = METRICS[key][0], AXES[over]
    kind = ("evaluation", "time") if over == "minutes" else ("evaluation",)
    aligned = [group.runs[0].options for group in groups if group.is_aligned]
    return [
        Chart(
            file_name(*kind, key, *protocol.parts),
            f"{label[0].upper()}{label[1:]} over {of} ({protocol})",
            axis,
            label,
            series,
            _marks(groups, protocol, over) if not aside else (),
            aside=aside,
            note=time_note(aligned) if over == "minutes" else "",
        )
    ]


def _marks(groups: Sequence[Group], protocol: Protocol, over: Over) -> tuple[Mark, ...]:
    """The target as a line, and a ring where a group's curve crosses it."""
    found = speed_up(groups, protocol, over)
    if found is None:
        return ()
    style = {group.name: i for i, group in enumerate(groups)}
    # In the legend of many runs, `it` is the line above.
    target = found.target_name if len(found.arrivals) < 3 else "it"
    marks = [Mark(found.target_name, y=found.target, style=style[found.baseline])]
    for arrival in found.arrivals:
        x, y = (arrival.at, found.target) if arrival.crossings else (None, None)
        marks.append(Mark(arrival.sentence(target), x, y, style[arrival.name]))
    return tuple(marks)
