"""What is known of each run, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from repa.report.analysis_charts import (
    CKNNA,
    TOP1,
    Row,
    model_rows,
    nearest_time,
    newest,
    shown_depths,
    subject,
)
from repa.report.charts import Cell, alike, shown
from repa.report.comparison import Comparison
from repa.report.evaluations import (
    DISTANCES,
    METRICS,
    evaluations,
    protocols,
    values,
)
from repa.report.runs import RunRecord
from repa.report.times import SECONDS

UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


@dataclass(frozen=True)
class Measured:
    """One quantity of all runs.

    Attributes:
        title: its name.
        values: one a run; None where it is not known.
        texts: as they are to be shown.
        higher_is_better: None if neither is.
        is_finding: whether a verdict should mention it.
    """

    title: str
    values: tuple[Cell, ...]
    texts: tuple[str, ...]
    higher_is_better: bool | None = None
    is_finding: bool = False

    def best(self) -> set[int]:
        """The places of the best values; none if all that are known look the same."""
        known = [i for i, value in enumerate(self.values) if value is not None]
        if self.higher_is_better is None or len({self.texts[i] for i in known}) < 2:
            return set()
        return {i for i in known if not any(self.is_better(j, i) for j in known)}

    def is_better(self, i: int, j: int) -> bool:
        """Whether the i-th value is better than the j-th, and looks so too."""
        mine, theirs = float(self.values[i] or 0), float(self.values[j] or 0)
        higher = mine > theirs
        return mine != theirs and self.texts[i] != self.texts[j] and higher == self.higher_is_better


def overview(comparison: Comparison) -> list[Measured]:
    """What the runs are, what they cost and where they got to.

    Of repetitions the mean, with the lowest and the highest in its text.
    """
    rows = _measured(comparison.means)
    if comparison.means is comparison:
        return rows
    single = {row.title: row for row in _measured(comparison)}
    return [_with_ranges(row, single.get(row.title), comparison) for row in rows]


def _measured(comparison: Comparison) -> list[Measured]:
    runs = comparison.runs
    same_loss = len({run.objective for run in runs}) == 1
    rows = [
        _row("model", [run.options.get("model") for run in runs]),
        _row("objective", [None if same_loss else run.objective for run in runs]),
        _row("target encoder", [_aligned(run, "enc_type") for run in runs]),
        _row("aligned depth", [_aligned(run, "encoder_depth") for run in runs]),
        _row("alignment coefficient", [_aligned(run, "proj_coeff") for run in runs]),
        _row("training steps", [run.last_step or None for run in runs]),
        _row("images per second, median", [_speed(run) for run in runs], higher=True),
        _durations([_last(run, SECONDS) for run in runs]),
        _row(
            "last denoising loss",
            [_last(run, "denoising_loss") for run in runs],
            higher=False if same_loss else None,
        ),
        _row("last alignment loss", [_last(run, "alignment_loss") for run in runs]),
        *_final_metrics(runs),
        *_final_rows(runs, comparison.probes, TOP1.key, "top-1 accuracy", percent=True),
    ]
    for encoder in dict.fromkeys(row["encoder"] for row in model_rows(comparison.alignments)):
        own = [row for row in model_rows(comparison.alignments) if row["encoder"] == encoder]
        rows += _final_rows(runs, own, CKNNA.key, f"CKNNA with {encoder}")
    return [row for row in rows if any(value is not None for value in row.values)]


def _final_metrics(runs: Sequence[RunRecord]) -> list[Measured]:
    """Each metric at the last evaluated step, which is told where runs differ in it."""
    rows = []
    for protocol in protocols(runs):
        for key, (name, higher) in METRICS.items():
            found = [values(evaluations(run, protocol), key) for run in runs]
            last = [max(own) if own else None for own in found]
            finals = [own[step] if step is not None else None
                      for own, step in zip(found, last, strict=True)]  # fmt: skip
            row = _row(f"{name} ({protocol})", finals, higher, is_finding=key in DISTANCES)
            rows.append(_with_steps(row, last))
    return rows


def _final_rows(
    runs: Sequence[RunRecord], rows: Sequence[Row], key: str, name: str, percent: bool = False
) -> list[Measured]:
    """The newest values of the averaged weights at the shown depth, t nearest to 0.5."""
    rows = [row for row in model_rows(rows) if row["weights"] == "ema"]
    if not rows:
        return []
    depths, middle = shown_depths(rows, key), nearest_time(rows)
    own: list[Row | None] = []
    for run in runs:
        at = [
            row
            for row in newest(row for row in rows if subject(row) == run.name)
            if row["time"] == middle and row["depth"] == depths[run.name]
        ]
        own.append(at[-1] if at else None)
    blocks = {row["depth"] for row in own if row is not None}
    # At one time other processes have other noise, so no value is better than another.
    comparable = len({run.process for run in runs}) == 1
    where = f"after block {min(blocks)}" if len(blocks) == 1 else "after the aligned block"
    row = _row(
        f"{name} {where}, t = {shown(middle)}",
        [None if row is None else row[key] for row in own],
        higher=True if comparable else None,
        percent=percent,
        is_finding=comparable,
    )
    if len(blocks) > 1:
        row = _remarked(row, [None if r is None else f" (block {r['depth']})" for r in own])
    return [_with_steps(row, [None if r is None else r["step"] for r in own])]


def _with_steps(row: Measured, steps: Sequence[int | None]) -> Measured:
    """Told where they differ."""
    if len({step for step in steps if step is not None}) < 2:
        return row
    return _remarked(row, [None if s is None else f" at step {shown(s)}" for s in steps])


def _with_ranges(row: Measured, single: Measured | None, comparison: Comparison) -> Measured:
    """The row with ` (24.1 to 24.8)` where repetitions differ; `single` is that of all runs."""
    if single is None:
        return row
    known = dict(zip((run.name for run in comparison.runs), single.values, strict=True))
    texts = dict(zip(known, single.texts, strict=True))
    remarks: list[str | None] = []
    for group in comparison.groups:
        numbers = {r.name: v for r in group.runs if isinstance(v := known[r.name], int | float)}
        ends = [texts[end(numbers, key=numbers.__getitem__)] for end in (min, max) if numbers]
        remarks.append(f" ({' to '.join(ends)})" if len(set(ends)) > 1 else None)
    return _remarked(row, remarks)


def _remarked(row: Measured, remarks: Sequence[str | None]) -> Measured:
    texts = (text + (remark or "") for text, remark in zip(row.texts, remarks, strict=True))
    return replace(row, texts=tuple(texts))


def _row(
    title: str,
    found: Sequence[Cell],
    higher: bool | None = None,
    percent: bool = False,
    is_finding: bool = False,
) -> Measured:
    texts = tuple(alike(found, percent))
    return Measured(title, tuple(found), texts, higher, is_finding)


def _aligned(run: RunRecord, option: str) -> Cell:
    """An option of alignment, of a run that has any."""
    if run.is_aligned:
        return run.options.get(option)
    return "none" if option == "enc_type" else None


def _speed(run: RunRecord) -> float | None:
    rates = values(run.metrics, "images_per_second")
    return median(rates.values()) if rates else None


def _durations(seconds: Sequence[float | None]) -> Measured:
    """In a unit that suits the longest."""
    longest = max((value for value in seconds if value is not None), default=0)
    unit, name = next(
        (unit, name) for unit, name in UNITS if longest >= 2 * unit or name == "seconds"
    )
    in_unit = [None if value is None else value / unit for value in seconds]
    return _row(f"{name} of training", in_unit)


def _last(run: RunRecord, key: str) -> float | None:
    found = values(run.metrics, key)
    return found[max(found)] if found else None
