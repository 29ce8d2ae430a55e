"""What `repa probe` and `repa align` print: a number for each block and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repa.report.analysis_charts import Row, model_rows, nearest_time, newest, subject
from repa.report.names import named_rows


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
    own = newest(model_rows(rows))
    print(f"\n{title}")
    for row in rows:
        if row["subject"] != "model":
            print(f"{row['name']:20}{row[metric]:14.4f}")
    if not own:
        return
    width = max(14, *(len(subject(row)) + 2 for row in own))
    time = nearest_time(own)
    own = [row for row in own if row["time"] == time]
    columns = {subject(row): row["step"] for row in own}  # no two have one name
    cells = {(subject(row), row["depth"]): row[metric] for row in own}
    print(f"{f'at t = {time:g}':20}" + "".join(f"{name:>{width}}" for name in columns))
    print(" " * 20 + "".join(f"{f'step {step}':>{width}}" for step in columns.values()))
    for depth in sorted({row["depth"] for row in own}):
        line = (cells.get((name, depth)) for name in columns)
        shown = ("" if value is None else f"{value:.4f}" for value in line)
        print(f"block {depth:<14}" + "".join(f"{text:>{width}}" for text in shown))
