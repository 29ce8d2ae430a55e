"""`repa report`: runs compared on one page."""

from __future__ import annotations

from pathlib import Path

from repa.config.report import ReportOptions
from repa.errors import RepaError
from repa.report.comparison import Comparison
from repa.report.page import GENERATOR, PAGE, runs_mark, write_report
from repa.report.runs import read_analysis, read_runs


def run_report(options: ReportOptions) -> Path:
    """Writes the report, and prints and returns the page's path.

    Raises:
        RepaError: if a run or the analysis cannot be read, or the report cannot or must not be
            written.
    """
    _check_destination(options)
    runs = read_runs(options.runs)
    analysis = read_analysis(options.analysis, runs)
    if "analysis" in options.model_fields_set and not analysis.settings:
        raise RepaError(
            f"--analysis {options.analysis}: expected a folder with probe.json or align.json, "
            "which `repa probe` and `repa align` write"
        )
    page = write_report(Comparison(runs, analysis), options.output_dir, options.title)
    print(f"report: {page.resolve()}")
    return page


def _check_destination(options: ReportOptions) -> None:
    """Only a former report is written over, and one of other runs only if told so."""
    folder = options.output_dir
    refusal = f"--output-dir {folder}: expected a new or empty folder or that of a former report"
    page = folder / PAGE
    try:
        if not folder.is_dir():
            if folder.exists():
                raise RepaError(f"{refusal}, this is a file")
        elif page.is_file():
            start = page.read_bytes()[:4096]
            if GENERATOR.encode() not in start:
                raise RepaError(f"{refusal}, but its {PAGE} is of another origin")
            if not options.overwrite and runs_mark(options.runs).encode() not in start:
                raise RepaError(
                    f"--output-dir {folder} holds a report of other runs: choose another, or "
                    "--overwrite"
                )
        elif any(folder.iterdir()):
            raise RepaError(f"{refusal}, but it holds other files")
    except OSError as error:
        raise RepaError(f"--output-dir {folder}: {error.strerror}") from None
