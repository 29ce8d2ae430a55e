"""Charts drawn with matplotlib: the same picture as SVG for pages and papers, and as PNG.

Series differ in color, dash and marker, so that figures can be read in black and white and by
color-blind readers. The same chart gives the same bytes with one version of matplotlib.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from repa.errors import RepaError
from repa.files import write_atomically
from repa.report.charts import Chart, Mark, Series, Table, points, to_csv

# Okabe and Ito's colors (https://jfly.uni-koeln.de/color/). The light ones are darkened until they
# have a contrast of 3:1 on white, and their black is gray, so that all have it on a dark page too.
COLORS = ("#75808a", "#d55e00", "#0072b2", "#009e73", "#c5709f", "#b07a00", "#3a94cb", "#8a8400")
DASHES: tuple[Any, ...] = (
    (0, (5, 2)), "-", (0, (6, 2, 1, 2)), (0, (1, 1.2)), (0, (9, 3)), (0, (4, 1.5, 1, 1.5, 1, 1.5)),
    (0, (2.5, 2.5)), (0, (9, 2, 2, 2)),
)  # fmt: skip
MARKERS = ("s", "o", "^", "D", "v", "P", "X", "*")
LEVELS: tuple[Any, ...] = ((0, (3, 3)), ":", (0, (1, 3)), (0, (6, 4)))  # dashes of marks
MARKERS_A_LINE, LABELS_A_SERIES = 9, 5

# Stand for the text's and the page's color until it is known where the figure will be seen.
INK, PAPER = "#010203", "#fefdfc"
SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # a run may be called $x$
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "svg.fonttype": "none",  # text stays text: it can be searched, and read at any size
    "path.simplify": True,
}
WIDTH, HEIGHT, LEGEND_LINE = 4.9, 3.1, 0.2  # inches
LEGEND_CHARACTERS = 58  # that fit in a line


def svg(chart: Chart) -> str:
    """A chart as a file: black on white."""
    return _svg(chart).replace(INK, "#000000").replace(PAPER, "#ffffff")


def inline_svg(chart: Chart) -> str:
    """The `<svg>` element for a page: text and axes in the page's `currentColor`, nothing behind.

    What it shows must be said beside it: it has no title of its own.
    """
    text = _svg(chart).replace(INK, "currentColor").replace(PAPER, "none")
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    # Those of groups are the same in every figure of the page, and nothing refers to them.
    return re.sub(r'<g id="[^"]*"', "<g", text)


def png(chart: Chart) -> bytes:
    """A chart at 200 dots an inch, on white."""
    buffer = io.BytesIO()
    with _settings(chart):
        _draw(chart).savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()


def write_chart(chart: Chart, folder: Path) -> None:
    """Writes NAME.svg, NAME.png and NAME.csv.

    Raises:
        RepaError: if they cannot be written.
    """
    files = {"svg": svg(chart).encode(), "png": png(chart), "csv": to_csv(points(chart))}
    _write(folder, chart.name, files)


def write_table(table: Table, folder: Path) -> None:
    """Writes NAME.csv.

    Raises:
        RepaError: if it cannot be written.
    """
    _write(folder, table.name, {"csv": to_csv(table)})


def _write(folder: Path, name: str, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for ending, data in files.items():
            write_atomically(folder / f"{name}.{ending}", data)
    except OSError as error:
        raise RepaError(f"cannot write {folder / name}: {error.strerror}") from None


@lru_cache(maxsize=128)
def _svg(chart: Chart) -> str:
    """Drawn once for a page and for a file."""
    buffer = io.StringIO()
    with _settings(chart):
        _draw(chart).savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


@contextmanager
def _settings(chart: Chart) -> Iterator[None]:
    """The salt makes the names inside a file the same each time, and others in each chart."""
    settings = SETTINGS | {"svg.hashsalt": chart.name}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def _draw(chart: Chart) -> Figure:
    looks = [_series_look(chart, series) for series in chart.series]
    mark_looks = [_mark_look(chart, mark) for mark in chart.marks]
    told = [i for i, series in enumerate(chart.series) if not series.is_faint]
    handles = [Line2D([], [], **look) for look in [looks[i] for i in told] + mark_looks]
    texts = [chart.series[i].name for i in told] + [mark.text for mark in chart.marks]
    columns = 2 if max(map(len, texts), default=0) <= LEGEND_CHARACTERS // 2 - 4 else 1
    texts = [textwrap.fill(text, LEGEND_CHARACTERS) or "–" for text in texts]
    lines = -(-sum(text.count("\n") + 1 for text in texts) // columns)
    figure = Figure(figsize=(WIDTH, HEIGHT + LEGEND_LINE * lines), layout="constrained")
    axes = figure.subplots()
    for series, look in zip(chart.series, looks, strict=True):
        _draw_series(axes, chart, series, look)
    for mark, look in zip(chart.marks, mark_looks, strict=True):
        _draw_mark(axes, mark, look)
    _label_axes(axes, chart)
    if handles:
        legend = figure.legend(
            handles,
            ["–"] * len(handles),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
            handlelength=3.2,
        )
        for shown, text in zip(legend.get_texts(), texts, strict=True):
            shown.set_text(text)  # not as a label: those that begin with _ would be left out
    return figure


def _draw_series(axes: Axes, chart: Chart, series: Series, look: dict[str, Any]) -> None:
    # Each line has its markers elsewhere, so that those of equal lines do not hide each other.
    step = 1 if chart.kind == "scatter" else max(1, len(series.x) // MARKERS_A_LINE)
    start = series.style % 8 * step // 8
    axes.plot(series.x, series.y, markevery=(start, step), **look)
    if series.labels:
        every = -(-len(series.labels) // LABELS_A_SERIES)
        for i in {*range(0, len(series.labels), every), len(series.labels) - 1}:
            place = (series.x[i], series.y[i])
            axes.annotate(series.labels[i], place, (5, 5), textcoords="offset points", fontsize=8)


def _draw_mark(axes: Axes, mark: Mark, look: dict[str, Any]) -> None:
    if mark.x is not None and mark.y is not None:
        axes.plot([mark.x], [mark.y], **look)
    elif mark.x is not None:
        axes.axvline(mark.x, zorder=1.5, **look)  # below the series
    elif mark.y is not None:
        axes.axhline(mark.y, zorder=1.5, **look)


def _mark_look(chart: Chart, mark: Mark) -> dict[str, Any]:
    color = INK if mark.style is None else COLORS[mark.style % 8]
    if mark.x is not None and mark.y is not None:
        return {"marker": "o", "markersize": 13, "markerfacecolor": "none", "linestyle": "none",
                "markeredgecolor": color, "markeredgewidth": 1.6}  # fmt: skip
    if mark.x is None and mark.y is None:  # a remark without a place
        return {"linestyle": "none"}
    alike = [other for other in chart.marks if (other.x is None) == (mark.x is None)]
    dash = LEVELS[alike.index(mark) % len(LEVELS)]
    return {"color": color, "linestyle": dash, "linewidth": 1.2}


def _series_look(chart: Chart, series: Series) -> dict[str, Any]:
    """More than eight repeat colors and dashes, with another marker."""
    turn, style = divmod(series.style, 8)
    scatter = chart.kind == "scatter"
    if series.is_faint:
        return {"color": COLORS[style], "linestyle": "-", "linewidth": 0.9, "alpha": 0.5}
    return {
        "color": COLORS[style],
        "linestyle": DASHES[style],
        "marker": MARKERS[(style + 3 * turn) % 8],
        "markersize": 7 if scatter else 5,
        "linewidth": 1 if scatter else 1.8,
    }


def _label_axes(axes: Axes, chart: Chart) -> None:
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.04, 0.08)
    xs = [x for series in chart.series for x in series.x]
    if xs and all(x == int(x) for x in xs):
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10], integer=True))
    if xs and max(xs) >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if chart.percent is not None:
        axis = axes.xaxis if chart.percent == "x" else axes.yaxis
        axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(lambda value, _: f"{100 * value:.6g}%")
