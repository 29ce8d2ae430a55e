"""Rows of `repa probe` and `repa align` as charts: over depth, over time, over training.

A row is a dict; for its keys see `repa.analysis.results`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repa.report.charts import Chart, Mark, Series, Table, file_name, shown, styles
from repa.report.figures import write_chart, write_table
from repa.report.names import named_rows

Row = Mapping[str, Any]
MIDDLE = 0.5  # the time that stands for all where only one is shown, as in the paper
OVER = {  # key in a row: its name in a title, and the axis
    "depth": ("depth", "depth (block)"),
    "time": ("t", "t (0 is data, 1 is noise)"),
    "step": ("training", "training step"),
}


@dataclass(frozen=True)
class Measure:
    """What is measured of a hidden state: its key in a row, its name, and its files' name."""

    key: str
    label: str
    name: str
    percent: bool = False


TOP1 = Measure("top1", "top-1 accuracy of a linear probe", "probe", percent=True)
CKNNA = Measure("cknna", "CKNNA", "cknna")
SIMILARITIES = (
    CKNNA,
    Measure("cka", "CKA", "cka"),
    Measure("mutual_knn", "mutual k-NN", "mutual-knn"),
)
SPATIAL = {
    "lds": "local versus distant similarity",
    "cds": "correlation decay slope",
    "rmsc": "RMS spatial contrast",
}


def write_probe_charts(results: Mapping[str, Any], folder: Path) -> None:
    """Writes the figures of a `probe.json` in FOLDER/figures: NAME.svg, .png and .csv.

    Raises:
        RepaError: if they cannot be written.
    """
    for chart in probe_charts(named_rows(results["rows"])):
        write_chart(chart, folder / "figures")


def write_align_charts(results: Mapping[str, Any], folder: Path) -> None:
    """Writes the figures of an `align.json` in FOLDER/figures: NAME.svg, .png and .csv.

    Raises:
        RepaError: if they cannot be written.
    """
    for chart in align_charts(named_rows(results["rows"])):
        write_chart(chart, folder / "figures")
    for table in (encoder_table(results["rows"]), spatial_table(results.get("spatial", ()))):
        if table is not None:
            write_table(table, folder / "figures")


def probe_charts(rows: Iterable[Row], known: Sequence[str] = ()) -> list[Chart]:
    """Accuracy over depth for each time, over time, and over training.

    Args:
        rows: of probes.
        known: names whose places decide on their looks.
    """
    rows = list(rows)
    levels = []
    for row in rows:
        if row["subject"] != "model":
            role = "ceiling" if row["subject"] == "encoder" else "floor"
            text = f"{row['name']} ({role})"
            levels.append(Mark(text, y=row["top1"]))
    return _charts(model_rows(rows), TOP1, known, levels)


def align_charts(rows: Iterable[Row], known: Sequence[str] = ()) -> list[Chart]:
    """CKNNA, CKA and mutual k-NN with each encoder, over depth, time and training."""
    models = model_rows(rows)
    charts = []
    for encoder in dict.fromkeys(row["encoder"] for row in models):
        own = [row for row in models if row["encoder"] == encoder]
        for measure in SIMILARITIES:
            label = f"{measure.label} with {encoder}"
            named = Measure(measure.key, label, file_name(measure.name, encoder))
            charts += _charts(own, named, known, [], measure is not CKNNA)
    return charts


def encoder_table(rows: Iterable[Row]) -> Table | None:
    """How similar the encoders' representations are to each other."""
    pairs = [row for row in rows if row["subject"] == "encoder" and "cknna" in row]
    if not pairs:
        return None
    header = ("encoder", "compared with", *(measure.label for measure in SIMILARITIES))
    cells = tuple(
        (row["name"], row["encoder"], *(row[measure.key] for measure in SIMILARITIES))
        for row in pairs
    )
    return Table("encoders", "Encoders compared with each other", header, cells)


def spatial_table(spatial: Iterable[Row]) -> Table | None:
    """How an encoder's tokens are arranged in space."""
    rows = tuple((row["encoder"], *(row.get(key) for key in SPATIAL)) for row in spatial)
    if not rows:
        return None
    return Table("spatial", "Spatial structure of the encoders' tokens",
                 ("encoder", *SPATIAL.values()), rows)  # fmt: skip


def model_rows(rows: Iterable[Row]) -> list[Row]:
    """Those about models."""
    return [row for row in rows if row["subject"] == "model"]


def subject(row: Row) -> str:
    """What a model row is about, as legends call it."""
    return row["name"] + (", raw weights" if row["weights"] == "raw" else "")


def nearest_time(rows: Iterable[Row]) -> float:
    """The time nearest to 0.5 of those in the rows."""
    return min({row["time"] for row in rows}, key=lambda time: (abs(time - MIDDLE), time))


def newest(rows: Iterable[Row]) -> list[Row]:
    """The rows of each subject's last step."""
    rows = list(rows)
    last: dict[str, int] = {}
    for row in rows:
        last[subject(row)] = max(row["step"], last.get(subject(row), row["step"]))
    return [row for row in rows if row["step"] == last[subject(row)]]


def shown_depths(rows: Sequence[Row], key: str) -> dict[str, int]:
    """The depth that stands for each subject where only one is shown.

    It is the aligned depth; for a run without alignment, that of the first aligned run; where no
    run is aligned, the depth of the subject's highest value. If that was not looked at, the nearest
    is taken.
    """
    aligned = {subject(row): row["encoder_depth"] for row in rows if row.get("encoder_depth")}
    first = next(iter(aligned.values()), None)
    depths = {}
    for name in dict.fromkeys(map(subject, rows)):
        own = newest(row for row in rows if subject(row) == name)
        time = nearest_time(own)
        at_time = [row for row in own if row["time"] == time]
        wanted = aligned.get(name, first)
        if wanted is None:
            wanted = max(at_time, key=lambda row: row[key])["depth"]
        depths[name] = min((row["depth"] for row in at_time), key=lambda d: (abs(d - wanted), d))
    return depths


def _charts(
    rows: Sequence[Row],
    measure: Measure,
    known: Sequence[str],
    levels: Sequence[Mark],
    aside: bool = False,
) -> list[Chart]:
    """A measure over depth, over time and over training; the last two only if there is more."""
    if not rows:
        return []
    last, middle = newest(rows), nearest_time(rows)
    marks = (*_aligned_marks(last, known), *levels)
    charts = []
    for time in sorted({row["time"] for row in last}, key=lambda time: (time != middle, time)):
        chosen = [row for row in last if row["time"] == time]
        chart = _chart(chosen, measure, known, "depth", f"at {_equation(time)}", marks)
        name = f"{chart.name}-t{shown(time)}"
        charts.append(replace(chart, name=name, aside=aside or time != middle))
    depths = shown_depths(rows, measure.key)
    at_depth = [row for row in rows if row["depth"] == depths[subject(row)]]
    several = len(set(depths.values())) > 1
    where = "after the block in the legend" if several else f"after block {min(depths.values())}"
    more = []
    over_time = newest(at_depth)
    if len({row["time"] for row in over_time}) > 1:
        more.append(_chart(over_time, measure, known, "time", where, levels, aside))
    over_steps = [row for row in at_depth if row["time"] == middle]
    if len({row["step"] for row in over_steps}) > 1:
        where += f" at {_equation(middle)}"
        more.append(_chart(over_steps, measure, known, "step", where, levels, aside))
    return charts + ([_with_blocks(chart, depths) for chart in more] if several else more)


def _chart(
    rows: Sequence[Row],
    measure: Measure,
    known: Sequence[str],
    x_key: str,
    where: str,
    marks: Sequence[Mark],
    aside: bool = False,
) -> Chart:
    look = styles(map(subject, rows), known)
    series = []
    for who in sorted({subject(row) for row in rows}, key=look.__getitem__):
        values = {row[x_key]: row[measure.key] for row in rows if subject(row) == who}
        xs = tuple(sorted(values))
        series.append(Series(who, xs, tuple(values[x] for x in xs), look[who]))
    over, x_label = OVER[x_key]
    return Chart(
        f"{measure.name}-{x_key}",
        f"{measure.label[0].upper()}{measure.label[1:]} over {over} {where}",
        x_label,
        measure.label,
        tuple(series),
        tuple(marks),
        percent="y" if measure.percent else None,
        aside=aside,
    )


def _aligned_marks(rows: Sequence[Row], known: Sequence[str]) -> list[Mark]:
    """A line at each aligned depth; it names the runs where there are several depths."""
    aligned = {subject(row): row["encoder_depth"] for row in rows if row.get("encoder_depth")}
    look = styles(map(subject, rows), known)
    depths = sorted(set(aligned.values()))
    marks = []
    for depth in depths:
        names = [name for name, own in aligned.items() if own == depth]
        text = f"aligned depth {depth}" + (f" ({', '.join(names)})" if len(depths) > 1 else "")
        marks.append(Mark(text, x=depth, style=look[names[0]] if len(names) == 1 else None))
    return marks


def _equation(time: float) -> str:
    """`t = 0.5`, with spaces at which no line is broken."""
    return f"t\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{shown(time)}"


def _with_blocks(chart: Chart, depths: Mapping[str, int]) -> Chart:
    """The chart with its series called `repa, block 8`."""
    series = (replace(s, name=f"{s.name}, block {depths[s.name]}") for s in chart.series)
    return replace(chart, series=tuple(series))
