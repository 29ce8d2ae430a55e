"""Pieces of a page: figures with their numbers, tables, sections. All text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Literal

from repa.report.charts import Chart, Table, alike, describe, numbers, points, shown, to_csv
from repa.report.figures import inline_svg

ROWS = 200  # of a table of a figure's numbers; more are in the CSV


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page with a heading of the second level; nothing if it is empty."""
    body = "".join(parts)
    if not body:
        return ""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{escape(title)}</h2>{body}</section>\n'
    )


def heading(text: str) -> str:
    """A heading of the third level."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; nothing without text."""
    return f"<p{_class(kind)}>{escape(text)}</p>" if text else ""


def details(summary: str, body: str) -> str:
    """What is folded away; nothing if there is nothing in it."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>" if body else ""


def figures(charts: Sequence[Chart], more: str) -> str:
    """Charts side by side; those of less interest folded away under `more`."""
    main = "".join(figure(chart) for chart in charts if not chart.aside)
    aside = "".join(figure(chart) for chart in charts if chart.aside)
    parts = f'<div class="figures">{main}</div>' if main else ""
    return parts + details(more, f'<div class="figures">{aside}</div>' if aside else "")


def figure(chart: Chart) -> str:
    """A chart with its caption, its description for who does not see it, and its numbers."""
    drawn = inline_svg(chart)
    drawn = drawn.replace("<svg", f'<svg role="img" aria-label="{escape(describe(chart))}"', 1)
    table = data_table(numbers(chart), hide_caption=True, percent=chart.percent)
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)}</figcaption>{drawn}'
        f"{paragraph(chart.note, 'note')}"
        f"{details('Numbers', download(points(chart)) + table)}</figure>"
    )


def data_table(
    table: Table, hide_caption: bool = False, percent: Literal["x", "y"] | None = None
) -> str:
    """Numbers as a table whose first column names the rows; long ones are thinned.

    `percent` tells which of a chart's values are fractions.
    """
    rows, note = list(table.rows), ""
    if len(rows) > ROWS:
        step = -(-len(rows) // ROWS)
        rows = [row for i, row in enumerate(rows) if i % step == 0 or i == len(rows) - 1]
        note = paragraph(
            f"One of {step} rows; all {shown(len(table.rows))} are in the CSV.", "note"
        )
    columns = list(zip(*rows, strict=True))
    is_scatter = table.header[:1] == ("series",)
    fractions = {None: [], "x": [1], "y": [2] if is_scatter else range(1, len(columns))}[percent]
    texts = [alike(column, i in fractions) for i, column in enumerate(columns)]
    cells = [[escape(text) for text in row] for row in zip(*texts, strict=True)]
    names = [i for i, column in enumerate(columns) if any(isinstance(c, str) for c in column)]
    return note + grid(table.title, table.header, cells, hide_caption, names)


def grid(
    caption: str,
    header: Sequence[str],
    cells: Iterable[Sequence[str]],
    hide_caption: bool = False,
    names: Collection[int] = (),
) -> str:
    """A table in a box of its own, which scrolls by mouse and keyboard if it is too wide.

    Args:
        caption: what it shows; with `hide_caption` only for who does not see it.
        header: names of the columns, as text.
        cells: rows, as HTML; the first cell of each is its name.
        hide_caption: for tables whose heading says the same.
        names: columns of words, which begin at the left; numbers end at the right.
    """
    kinds = [' class="words"' if i in names else "" for i in range(len(header))]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>'
        for name, kind in zip(header, kinds, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(rest, kinds[1:], strict=True))
        + "</tr>"
        for name, *rest in cells
    )
    hidden = ' class="unseen"' if hide_caption else ""
    return (
        f'<div class="scroll" role="group" aria-label="{escape(caption)}" tabindex="0"><table>'
        f"<caption{hidden}>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def download(table: Table) -> str:
    """A link to the numbers as CSV, which the page itself contains."""
    uri = data_uri("text/csv", to_csv(table))
    return (
        f'<p class="note"><a href="{uri}" download="{escape(table.name)}.csv">'
        f"{escape(table.name)}.csv</a></p>"
    )


def data_uri(kind: str, data: bytes) -> str:
    """A file inside a link."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
