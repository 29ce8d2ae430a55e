"""The runs of a report, and the rows that each question about them is answered from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from repa.report.analysis_charts import Row, align_charts, model_rows, probe_charts
from repa.report.charts import Chart
from repa.report.evaluations import baseline_of
from repa.report.runs import Analysis, RunRecord
from repa.report.training_charts import accuracy_charts


@dataclass(frozen=True)
class Comparison:
    """Runs, and what was found out about them.

    Rows of the analysis folder come first: they are of all depths and of more images. Those that
    runs wrote during training serve where it has none about them, and for what it tells of one
    step only.
    """

    runs: Sequence[RunRecord]
    analysis: Analysis

    @property
    def baseline(self) -> RunRecord:
        """What the other runs are compared with."""
        return baseline_of(self.runs)

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
        return charts
