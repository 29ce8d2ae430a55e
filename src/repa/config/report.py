"""Options of `repa report`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from repa.config.base import Options, Several


class ReportOptions(Options):
    """Compare runs on one HTML page, with every figure as a file."""

    runs: Several[Path] = Field(
        description="folders of runs, as `repa train` wrote them",
        json_schema_extra={"positional": True},
    )
    analysis: Path = Field(
        Path("analysis"),
        description="folder of `repa probe` and `repa align`; left out if it is not there",
    )
    output_dir: Path = Field(Path("report"), description="folder of the page and its figures")
    title: str | None = Field(None, description="heading of the page; by default the runs' names")
    overwrite: bool = Field(False, description="replace a report of other runs")
