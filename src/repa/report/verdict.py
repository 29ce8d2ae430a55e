"""How runs compare, in words, whichever way the numbers fall."""

from __future__ import annotations

from dataclasses import dataclass

from repa.report.charts import count
from repa.report.comparison import Comparison
from repa.report.evaluations import protocols, speed_up
from repa.report.overview import Measured, overview
from repa.report.runs import RunRecord

NOTHING = "Nothing was measured but the training itself."


@dataclass(frozen=True)
class Verdict:
    """What is said of one run: what it is, or what it is compared with, and the findings."""

    subject: str
    findings: tuple[str, ...]


def verdicts(comparison: Comparison) -> list[Verdict]:
    """One for each run other than the baseline; for a single run, what is known of it."""
    runs, base = comparison.runs, comparison.baseline
    if len(runs) == 1:
        rows = [row for row in overview(comparison) if row.is_finding]
        known = tuple(f"{_capital(row.title)}: {row.texts[0]}." for row in rows)
        steps = count(base.last_step, "training step")
        return [Verdict(f"{base.name}: {_kind(base)}, {steps}", known or (NOTHING,))]
    return [_against(comparison, base, run) for run in runs if run is not base]


def _against(comparison: Comparison, base: RunRecord, run: RunRecord) -> Verdict:
    # Of these two alone: both are looked at after the block that this run was aligned at.
    rows = overview(comparison.between([base, run]))
    both = [row for row in rows if row.is_finding and None not in row.values]
    findings = (*map(_difference, both), *_arrivals(comparison, run))
    return Verdict(f"{_named(run)} compared with {_named(base)}", findings or (NOTHING,))


def _difference(row: Measured) -> str:
    """`FID: 12.3 instead of 15.6, better.`, of a row of the baseline and a run."""
    theirs, mine = row.texts
    if row.is_better(1, 0):
        word = "better"
    elif row.is_better(0, 1):
        word = "worse"
    else:
        return f"{_capital(row.title)}: the same, {mine}."
    return f"{_capital(row.title)}: {mine} instead of {theirs}, {word}."


def _arrivals(comparison: Comparison, run: RunRecord) -> list[str]:
    """When the run got to the baseline's final distance, by each network that judged both."""
    sentences = []
    for protocol in protocols(comparison.runs):
        found = speed_up(comparison.runs, protocol)
        for arrival in found.arrivals if found is not None else ():
            if found is not None and arrival.run == run.name:
                sentences.append(f"{arrival.sentence(found.target_name)} ({protocol}).")
    return sentences


def _named(run: RunRecord) -> str:
    return f"{run.name} ({_kind(run)})"


def _kind(run: RunRecord) -> str:
    model = str(run.options.get("model", "unknown model"))
    if not run.is_aligned:
        return f"{model} without alignment"
    depth = run.options.get("encoder_depth")
    return f"{model} aligned to {run.options.get('enc_type')} after block {depth}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
