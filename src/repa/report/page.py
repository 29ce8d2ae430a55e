"""The report: one HTML page that compares runs, whole in itself, and its figures as files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import repa
from repa.errors import RepaError
from repa.files import write_atomically
from repa.report.charts import Chart, Table
from repa.report.comparison import Comparison
from repa.report.configuration import environment, options
from repa.report.evaluation_charts import evaluation_charts
from repa.report.figures import write_chart, write_table
from repa.report.html import figures, paragraph, section
from repa.report.overview import overview
from repa.report.pictures import sample_grids
from repa.report.prompts import Drawing, drawings_html
from repa.report.runs import RunRecord
from repa.report.sections import analysis_tables, evaluation_tables, overview_table, representations
from repa.report.training_charts import training_charts
from repa.report.verdict import Verdict, verdicts

PAGE = "report.html"
GENERATOR = '<meta name="generator" content="repa report'  # how a page is known to be ours


def write_report(
    comparison: Comparison,
    folder: Path,
    title: str | None = None,
    lead: str | None = None,
    credit: str | None = None,
    real_images: Path | None = None,
    drawings: Sequence[Drawing] = (),
) -> Path:
    """Writes FOLDER/report.html and FOLDER/figures/NAME.{svg,png,csv}.

    Args:
        comparison: the runs and what was found out about them.
        folder: made if it is not there.
        title: heading of the page; by default the runs' names.
        lead: a sentence or two below it, as plain text.
        credit: a line at the foot, such as whose pictures are shown.
        real_images: a grid of real images to show beside the samples.
        drawings: what was drawn for texts.

    Returns:
        The page's path.

    Raises:
        RepaError: if a picture cannot be read, or something cannot be written.
    """
    means, groups = comparison.means, comparison.groups
    charts = {
        "evaluation": [*evaluation_charts(groups), *means.accuracy_charts()],
        "probe": means.probe_charts(),
        "align": means.align_charts(),
        "training": training_charts(groups),
    }
    tables = analysis_tables(comparison)
    page = _page(comparison, charts, tables, title, lead, credit, real_images, drawings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / PAGE, page.encode())
    except OSError as error:
        raise RepaError(f"cannot write {folder / PAGE}: {error.strerror}") from None
    for chart in (chart for group in charts.values() for chart in group):
        write_chart(chart, folder / "figures")
    for table in tables:
        write_table(table, folder / "figures")
    return folder / PAGE


def runs_mark(folders: Sequence[Path]) -> str:
    """How a page is known to be of these runs, which lie in these folders, in any order."""
    places = "\n".join(sorted({str(folder.resolve()) for folder in folders}))
    return f'<meta name="runs" content="{hashlib.sha256(places.encode()).hexdigest()}">'


def _page(
    comparison: Comparison,
    charts: dict[str, list[Chart]],
    tables: Sequence[Table],
    title: str | None,
    lead: str | None,
    credit: str | None,
    real_images: Path | None,
    drawings: Sequence[Drawing],
) -> str:
    runs = comparison.runs
    title = title or _default_title(runs)
    sections = {
        "overview": ("Overview", overview_table(overview(comparison), comparison.means.runs)),
        "differences": ("What differs", options(runs)),
        "drawings": ("Drawn from texts", drawings_html(drawings)),
        "samples": ("Samples over training", sample_grids(runs, real_images)),
        "evaluation": (
            "Quality of samples",
            figures(charts["evaluation"], "Other metrics") + evaluation_tables(runs),
        ),
        "representations": ("Representations", representations(comparison, charts, tables)),
        "training": ("Training", figures(charts["training"], "More figures")),
        "environment": ("Environment and command lines", environment(runs)),
    }
    there = {name: pair for name, pair in sections.items() if pair[1]}
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_resource("page.html")).substitute(
        generator=f'{GENERATOR} {escape(repa.__version__)}">\n'
        + runs_mark([run.folder for run in runs]),
        # Nothing is loaded, and no script runs but ours, whatever the files say.
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'",
        title=escape(title),
        style=_resource("page.css"),
        script=script,
        lead=paragraph(lead or "", "lead"),
        verdict="".join(_verdict_html(verdict) for verdict in verdicts(comparison)),
        navigation="".join(
            f'<li><a href="#{name}">{escape(name_shown)}</a></li>'
            for name, (name_shown, _) in there.items()
        ),
        sections="".join(section(name, *pair) for name, pair in there.items()),
        credit=paragraph(credit or ""),
        version=escape(repa.__version__),
    )


def _resource(name: str) -> str:
    return resources.files("repa.report").joinpath(name).read_text("utf-8")


def _default_title(runs: Sequence[RunRecord]) -> str:
    return " and ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs compared"


def _verdict_html(verdict: Verdict) -> str:
    items = "".join(f"<li>{escape(finding)}</li>" for finding in verdict.findings)
    return f"<p><strong>{escape(verdict.subject)}</strong></p><ul>{items}</ul>"
