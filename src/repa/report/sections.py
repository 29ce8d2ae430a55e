"""The page's tables: overview, evaluations, probes and similarities."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from repa.report.analysis_charts import Row, encoder_table, model_rows, spatial_table
from repa.report.charts import Cell, Chart, Table
from repa.report.comparison import Comparison
from repa.report.configuration import settings
from repa.report.evaluations import METRICS, protocol_of
from repa.report.html import data_table, details, download, figures, grid, heading, paragraph
from repa.report.overview import Measured
from repa.report.runs import Line, RunRecord

ARROWS = {None: "", True: " ↑", False: " ↓"}
PROBE_COLUMNS = {
    "top1": "top-1",
    "top5": "top-5",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
}
ALIGN_COLUMNS = {
    "encoder": "encoder",
    "cknna": "CKNNA",
    "cka": "CKA",
    "mutual_knn": "mutual k-NN",
}


def overview_table(rows: Sequence[Measured], runs: Sequence[RunRecord]) -> str:
    """A row for each quantity, a column for each run; the best value is bold and has a star.

    Of repetitions there is one column, the mean with the lowest and the highest.
    """
    cells = []
    for row in rows:
        best = row.best()
        values = [_best(text) if i in best else escape(text) for i, text in enumerate(row.texts)]
        cells.append([escape(row.title + ARROWS[row.higher_is_better]), *values])
    header = ("quantity", *(run.name for run in runs))
    note = "↑ higher is better, ↓ lower is better"
    if any(row.best() for row in rows):
        note += "; ★ marks the best value of a row"
    return grid("Overview of the runs", header, cells, hide_caption=True) + paragraph(
        f"{note}.", "note"
    )


def evaluation_tables(runs: Sequence[RunRecord]) -> str:
    """What was measured during training, and what `repa evaluate` wrote into runs' folders."""
    own = [(run.name, f"{line['step']:,}", line) for run in runs for line in run.evaluations]
    after = [(run.name, name, line) for run in runs for name, line in run.results.items()]
    parts = ""
    if own:
        during = all(protocol_of(line).reference == "" for _, _, line in own)
        title = "Evaluations during training" if during else "Evaluations of checkpoints"
        table = _metrics_table("evaluations", title, "step", own)
        parts += details(table.title, download(table) + data_table(table, hide_caption=True))
    if after:
        table = _metrics_table("results", "Results of repa evaluate", "file", after)
        parts += heading(table.title) + data_table(table, hide_caption=True)
    return parts


def representations(
    comparison: Comparison, charts: dict[str, list[Chart]], tables: Sequence[Table]
) -> str:
    """Probes, then similarities, each with figures and all numbers."""
    parts = ""
    probes, alignments = comparison.probes, comparison.alignments
    if charts["probe"]:
        parts += heading("Linear probes") + paragraph(
            "A linear classifier reads the class from the average of a block's tokens. The line of "
            "an encoder is what its own tokens allow; that of pixels needs no network at all.",
            "note",
        )
        parts += figures(charts["probe"], "At other times t")
    parts += _rows("probes", "All probes", probes, PROBE_COLUMNS)
    if charts["align"]:
        parts += heading("Similarity to encoders") + paragraph(
            "CKNNA tells how far a block's averaged tokens and an encoder's agree on which images "
            "are neighbors; CKA compares all pairs, mutual k-NN counts common neighbors.",
            "note",
        )
        parts += figures(charts["align"], "At other times t, CKA and mutual k-NN")
    parts += _rows("alignments", "All similarities", alignments, ALIGN_COLUMNS)
    for table in tables:
        parts += heading(table.title) + data_table(table, hide_caption=True) + download(table)
    return parts + settings(comparison.analysis.settings)


def analysis_tables(comparison: Comparison) -> list[Table]:
    """What of an analysis is a table by nature."""
    analysis = comparison.analysis
    tables = (encoder_table(analysis.alignments), spatial_table(analysis.spatial))
    return [table for table in tables if table is not None]


def _best(text: str) -> str:
    return (
        f'<strong class="best">{escape(text)} <span aria-hidden="true">★</span>'
        '<span class="unseen">(best)</span></strong>'
    )


def _metrics_table(
    name: str, title: str, what: str, found: Sequence[tuple[str, str, Line]]
) -> Table:
    """A row for each evaluation; columns that nothing is known of are left out."""
    keys = [key for key in METRICS if any(key in line for _, _, line in found)]
    rows = []
    for run, label, line in found:
        values = (_number(line.get(key)) for key in keys)
        rows.append((run, label, *_protocol(line, with_step=what != "step"), *values))
    about = ("network", "samples", "reference", "drawn with")
    header = ("run", what, *about, *(METRICS[key][0] for key in keys))
    seen = [i for i in range(len(header)) if any(row[i] is not None for row in rows)]
    shown_rows = tuple(tuple(row[i] for i in seen) for row in rows)
    return Table(name, title, tuple(header[i] for i in seen), shown_rows)


def _protocol(line: Line, with_step: bool) -> tuple[Cell, ...]:
    """The network, how many samples, the reference, and what is known of how they were drawn.

    `step 800, ODE in 25 steps, guidance 1.8 on [0, 0.7]`.
    """
    protocol, samples = protocol_of(line), line.get("samples")
    drawn = samples.get("drawn") if isinstance(samples, dict) else None
    step = [f"step {drawn['step']}"] if isinstance(drawn, dict) and "step" in drawn else []
    parts = [*(step if with_step else []), *filter(None, [protocol.sampler])]
    told = (protocol.samples or None, protocol.reference or None, ", ".join(parts) or None)
    return (protocol.network, *told)


def _number(value: object) -> Cell:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rows(name: str, title: str, rows: Sequence[Row], columns: dict[str, str]) -> str:
    """All rows about models and what they are compared with, folded away."""
    if not model_rows(rows) and not any("top1" in row for row in rows):
        return ""
    about = {"name": "name", "step": "step", "weights": "weights", "depth": "depth", "time": "t"}
    names = about | columns
    cells = tuple(tuple(row.get(key) for key in names) for row in rows)
    table = Table(name, title, tuple(names.values()), cells)
    return details(title, download(table) + data_table(table, hide_caption=True))
