"""The runs of a report, and the rows that each question about them is answered from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from repa.report.accuracy_charts import accuracy_charts
from repa.report.analysis_charts import Row, align_charts, model_rows, probe_charts
from repa.report.charts import Chart
from repa.report.groups import Group, baseline_of, groups_of, mean_rows
from repa.report.runs import Analysis, Line, RunRecord


@dataclass(frozen=True)
class Comparison:
    """Runs, and what was found out about them.

    Rows of the analysis folder come first: they are of all depths and of more images. Those that
    runs wrote during training serve where it has none about them, and for what it tells of one
    step only.
    """

    runs: Sequence[RunRecord]
    analysis: Analysis

    @cached_property
    def groups(self) -> list[Group]:
        """The runs, repetitions of one experiment together."""
        return groups_of(self.runs)

    @property
    def baseline(self) -> Group:
        """What the other groups are compared with."""
        return baseline_of(self.groups)

    @cached_property
    def means(self) -> Comparison:
        """The groups' means as if each were a run; without repetitions, the same."""
        if not any(group.is_repeated for group in self.groups):
            return self
        analysis = replace(
            self.analysis,
            probes=self._mean_rows(self.analysis.probes),
            alignments=self._mean_rows(self.analysis.alignments),
        )
        return Comparison([group.mean for group in self.groups], analysis)

    @property
    def probes(self) -> Sequence[Row]:
        """Rows of probes."""
        return self._about_runs(
            self.analysis.probes, [row for run in self.runs for row in run.probes]
        )

    @property
    def alignments(self) -> Sequence[Row]:
        """Rows of similarities."""
        return self._about_runs(
            self.analysis.alignments, [row for run in self.runs for row in run.alignments]
        )

    def between(self, runs: Sequence[RunRecord]) -> Comparison:
        """The same of some of the runs."""
        names = {run.name for run in runs}
        probes, alignments = (
            [row for row in rows if row["subject"] != "model" or row["name"] in names]
            for rows in (self.analysis.probes, self.analysis.alignments)
        )
        analysis = replace(self.analysis, probes=probes, alignments=alignments)
        return Comparison(runs, analysis)

    def probe_charts(self) -> list[Chart]:
        """Accuracy over depth, time and training."""
        own = [row for run in self.runs for row in run.probes]
        return self._with_training(probe_charts, self.probes, own)

    def align_charts(self) -> list[Chart]:
        """Similarity over depth, time and training."""
        own = [row for run in self.runs for row in run.alignments]
        return self._with_training(align_charts, self.alignments, own)

    def accuracy_charts(self) -> list[Chart]:
        """Distance against accuracy."""
        rows = self.probes
        if len({row["step"] for row in model_rows(rows)}) < 2:
            own = [row for run in self.runs for row in run.probes]
            rows = [*(row for row in rows if row["subject"] != "model"), *own] if own else rows
        return accuracy_charts(self.runs, rows)

    def _mean_rows(self, rows: Sequence[Line]) -> list[Line]:
        """Those about repetitions averaged, the others as they are."""
        repeated = [group for group in self.groups if group.is_repeated]
        names = {run.name for group in repeated for run in group.runs}
        found = [row for row in rows if row["subject"] != "model" or row["name"] not in names]
        for group in repeated:
            parts = [[r for r in model_rows(rows) if r["name"] == run.name] for run in group.runs]
            found += mean_rows(parts, group.mean.name)
        return found

    def _about_runs(self, rows: Sequence[Row], own: Sequence[Row]) -> Sequence[Row]:
        """Rows of the analysis if it looked at a run, else the runs' own; they are not mixed."""
        names = {run.name for run in self.runs}
        if not own or any(row["name"] in names for row in model_rows(rows)):
            return rows
        return [*(row for row in rows if row["subject"] != "model"), *own]

    def _with_training(
        self,
        draw: Callable[[Sequence[Row], Sequence[str]], list[Chart]],
        rows: Sequence[Row],
        own: Sequence[Row],
    ) -> list[Chart]:
        names = [run.name for run in self.runs]
        charts = draw(rows, names)
        there = {chart.name for chart in charts}
        more = [c for c in draw(own, names) if c.name.endswith("-step") and c.name not in there]
        charts += [replace(c, title=f"{c.title}, measured during training") for c in more]
        if len({run.process for run in self.runs}) > 1:
            note = "At the same t, images of DDPM and of each path are not equally noisy."
            charts = [replace(chart, note=chart.note or note) for chart in charts]
        return charts
