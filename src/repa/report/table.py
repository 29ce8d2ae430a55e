"""What `repa probe` and `repa align` print: a number for each block and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repa.analysis.results import Row
from repa.report.names import named_rows

MIDDLE = 0.5  # of the times, the one nearest to it is shown


def print_results(results: Mapping[str, Any]) -> None:
    """Prints what `probe.json` or `align.json` says of the newest checkpoint of each run."""
    rows = named_rows(results["rows"])
    if results["kind"] == "probe":
        _print_by_depth(rows, "top1", "top-1 accuracy of a linear classifier")
        return
    for name in dict.fromkeys(row["encoder"] for row in rows):
        own = [row for row in rows if row["encoder"] == name]
        _print_by_depth(own, "cknna", f"CKNNA with {name}")
    for row in results["spatial"]:
        shown = ", ".join(f"{key} {row[key]:.4f}" for key in row if key != "encoder")
        print(f"\ntokens of {row['encoder']}: {shown}")


def _print_by_depth(rows: Sequence[Row], metric: str, title: str) -> None:
    """A line for each encoder and for pixels; then one a block, at the time nearest the middle."""
    own = _newest([row for row in rows if row["subject"] == "model"])
    print(f"\n{title}")
    for row in rows:
        if row["subject"] != "model":
            print(f"{row['name']:20}{row[metric]:14.4f}")
    if not own:
        return
    width = max(14, *(len(_title(row)) + 2 for row in own))
    time = min({row["time"] for row in own}, key=lambda t: (abs(t - MIDDLE), t))
    own = [row for row in own if row["time"] == time]
    columns = {(row["checkpoint"], row["weights"]): row for row in own}
    cells = {(row["checkpoint"], row["weights"], row["depth"]): row[metric] for row in own}
    print(f"{f'at t = {time:g}':20}" + "".join(f"{_title(r):>{width}}" for r in columns.values()))
    steps = (f"step {row['step']}" for row in columns.values())
    print(" " * 20 + "".join(f"{step:>{width}}" for step in steps))
    for depth in sorted({row["depth"] for row in own}):
        line = (cells.get((*column, depth)) for column in columns)
        shown = ("" if value is None else f"{value:.4f}" for value in line)
        print(f"block {depth:<14}" + "".join(f"{text:>{width}}" for text in shown))


def _newest(rows: Sequence[Row]) -> list[Row]:
    """Those of each run's last step; a file that is of no run stands for itself."""
    last: dict[tuple[str, str], int] = {}
    for row in rows:
        last[_series(row)] = max(row["step"], last.get(_series(row), row["step"]))
    return [row for row in rows if row["step"] == last[_series(row)]]


def _title(row: Row) -> str:
    return row["name"] + (" (raw)" if row["weights"] == "raw" else "")


def _series(row: Row) -> tuple[str, str]:
    return row["run"] or row["checkpoint"], row["weights"]
