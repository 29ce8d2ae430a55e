"""What a figure shows, said once: SVG, PNG, CSV and the page's table of numbers come from it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Cell = str | float | int | None


@dataclass(frozen=True)
class Series:
    """Points that belong together, in the order in which they are joined.

    Attributes:
        name: in the legend.
        x, y: the coordinates; a y that is not finite leaves a gap.
        style: which color, dash and marker; what has the same in several figures looks the same.
        labels: a text beside each point, or nothing.
        is_faint: one of those that another series sums up; drawn thin, and not in the legend.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    style: int
    labels: tuple[str, ...] = ()
    is_faint: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line where only x is given, a horizontal one where only y is, else a ring."""

    text: str
    x: float | None = None
    y: float | None = None
    style: int | None = None  # of the series that it is about


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        name: of its files.
        title: what it shows.
        x_label, y_label: of the axes.
        series: what is drawn.
        marks: lines and rings on top, each with its text in the legend.
        kind: `line` joins points; `scatter` shows each, joined faintly.
        percent: the axis whose values are fractions, shown as percent.
        aside: one of many of its kind, which a page folds away.
        note: what to mind, for below the figure.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    kind: Literal["line", "scatter"] = "line"
    percent: Literal["x", "y"] | None = None
    aside: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers that are a table by nature; None is a cell that nothing is known of."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def points(chart: Chart) -> Table:
    """Every number of a chart, a row each: series, x, y, label; marks come last."""
    rows: list[tuple[Cell, ...]] = []
    for series in chart.series:
        labels = series.labels or ("",) * len(series.x)
        rows += [
            (series.name, x, y, label)
            for x, y, label in zip(series.x, series.y, labels, strict=True)
        ]
    rows += [(mark.text, mark.x, mark.y, "mark") for mark in chart.marks]
    return Table(chart.name, chart.title, ("series", chart.x_label, chart.y_label, "label"),
                 tuple(rows))  # fmt: skip


def numbers(chart: Chart) -> Table:
    """The numbers as one reads them: of lines, a row for each x and a column for each series.

    Where no two series share an x, each point is a row.
    """
    xs = sorted({x for series in chart.series for x in series.x})
    apart = len(chart.series) > 1 and len(xs) == sum(len(series.x) for series in chart.series)
    if chart.kind == "scatter" or not chart.series or apart:
        return points(chart)
    values = [dict(zip(series.x, series.y, strict=True)) for series in chart.series]
    levels = [mark for mark in chart.marks if mark.x is None]
    rows = [(x, *(column.get(x) for column in values), *(mark.y for mark in levels)) for x in xs]
    header = (chart.x_label, *(s.name for s in chart.series), *(mark.text for mark in levels))
    return Table(chart.name, chart.title, header, tuple(rows))


def to_csv(table: Table) -> bytes:
    """UTF-8, numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(table.rows)
    return text.getvalue().encode()


def describe(chart: Chart) -> str:
    """What is to be seen, in words, for who does not see it."""
    kind = "Scatter plot" if chart.kind == "scatter" else "Line chart"
    parts = [f"{kind}: {chart.y_label} over {chart.x_label}."]

    def at(x: float, y: float) -> str:
        return f"{shown(y, chart.percent == 'y')} at {shown(x, chart.percent == 'x')}"

    for series in chart.series:
        seen = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y)]
        if not seen:
            continue
        text = f"{series.name}: {at(*seen[0])}"
        if len(seen) > 1:
            text += f", {at(*seen[-1])}"
        if len(seen) > 2:
            low, high = (pick(seen, key=lambda point: point[1]) for pick in (min, max))
            text += f"; lowest {at(*low)}, highest {at(*high)}"
        parts.append(f"{text}.")
    for mark in chart.marks:
        if mark.x is not None and mark.y is not None:
            parts.append(f"Ring, {at(mark.x, mark.y)}: {mark.text}.")
        elif mark.x is not None:
            parts.append(f"Vertical line at {shown(mark.x, chart.percent == 'x')}: {mark.text}.")
        elif mark.y is not None:
            parts.append(f"Horizontal line at {shown(mark.y, chart.percent == 'y')}: {mark.text}.")
        else:
            parts.append(f"{mark.text}.")
    return " ".join(parts)


def shown(value: Cell, percent: bool = False) -> str:
    """A number for people: four digits that count, thousands separated; text as it is."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return str(value)
    if percent:
        return f"{100 * value:.1f}%"
    if isinstance(value, int) or (value == int(value) and abs(value) >= 1000):
        return f"{int(value):,}"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def alike(values: Sequence[Cell], percent: bool = False) -> list[str]:
    """Values as `shown`, those that are no integers with the same number of decimals."""
    texts = [shown(value, percent) for value in values]
    if percent or any("e" in text for text in texts):
        return texts
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    return [
        f"{value:,.{decimals}f}" if isinstance(value, float) and math.isfinite(value) else text
        for value, text in zip(values, texts, strict=True)
    ]


def count(number: float, noun: str) -> str:
    """`1 step`, `2,000 steps`."""
    return f"{shown(number)} {noun}" + ("" if number == 1 else "s")


def file_name(*parts: object) -> str:
    """A name of small letters, digits, dots and dashes, made of the parts."""
    text = "-".join(str(part) for part in parts).lower()
    return re.sub(r"[^a-z0-9.]+", "-", text).strip("-.") or "figure"


def styles(names: Iterable[str], known: Sequence[str] = ()) -> dict[str, int]:
    """A style for each name: the place among the known ones, which come first."""
    return {name: i for i, name in enumerate(dict.fromkeys([*known, *names]))}
