"""How runs compare, in words, whichever way the numbers fall."""

from __future__ import annotations

from dataclasses import dataclass

from repa.report.charts import count
from repa.report.comparison import Comparison
from repa.report.evaluations import protocols
from repa.report.groups import Group, compared_with
from repa.report.overview import Measured, overview
from repa.report.runs import RunRecord
from repa.report.speed_up import OVER, speed_up

NOTHING = "There are no evaluations, probes or alignments of it."


@dataclass(frozen=True)
class Verdict:
    """What is said of one run: what it is, or what it is compared with, and the findings."""

    subject: str
    findings: tuple[str, ...]


def verdicts(comparison: Comparison) -> list[Verdict]:
    """One for each group other than the baseline; for a single one, what is known of it."""
    groups, base = comparison.groups, comparison.baseline
    if len(groups) == 1:
        rows = [row for row in overview(comparison) if row.is_finding]
        known = tuple(f"{_capital(row.title)}: {row.texts[0]}." for row in rows)
        steps = count(base.mean.last_step, "training step")
        return [Verdict(f"{base.mean.name}: {_kind(base.mean)}, {steps}", known or (NOTHING,))]
    others = [group for group in groups if group is not base]
    return [_against(comparison, compared_with(group, groups), group) for group in others]


def _against(comparison: Comparison, base: Group, group: Group) -> Verdict:
    # Of these two alone: both are looked at after the block that this run was aligned at.
    rows = overview(comparison.between([*base.runs, *group.runs]))
    both = [row for row in rows if row.is_finding and None not in row.values]
    # When it got to the baseline's distance is known of the common baseline alone.
    arrivals = _arrivals(comparison, group) if base is comparison.baseline else []
    findings = (*map(_difference, both), *arrivals)
    subject = f"{_named(group.mean)} compared with {_named(base.mean)}"
    return Verdict(subject, findings or (NOTHING,))


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


def _arrivals(comparison: Comparison, group: Group) -> list[str]:
    """When the group got to the baseline's final distance, by each protocol that judged both."""
    sentences = []
    for protocol in protocols(comparison.runs):
        by_steps, by_time = (speed_up(comparison.groups, protocol, over) for over in OVER)
        arrival = by_steps.of(group.name) if by_steps is not None else None
        if by_steps is None or arrival is None:
            continue
        sentence = arrival.sentence(f"{by_steps.target_name} ({protocol})")
        timed = by_time.of(group.name) if by_time is not None else None
        if timed is not None and timed.crossings:
            sentence += f"; that is {timed.clause}"
        sentences.append(f"{sentence}.")
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
