"""How runs were set up: options that differ, all options, command lines and environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from repa.report.charts import Cell, Table
from repa.report.html import data_table, details, heading, paragraph
from repa.report.runs import RunRecord

PLACES = ("exp_name", "output_dir")  # always differ, and decide on nothing


def options(runs: Sequence[RunRecord]) -> str:
    """What differs between the runs' options, and all of them folded away."""
    names = list(dict.fromkeys(name for run in runs for name in run.options))
    every = {name: tuple(_text(run.options, name) for run in runs) for name in names}
    header = ("option", *(run.name for run in runs))
    differing = [
        (name, *values)
        for name, values in every.items()
        if len(set(values)) > 1 and name not in PLACES
    ]
    parts = ""
    if differing:
        parts = data_table(Table("", "Options that differ", header, tuple(differing)), True)
    elif len(runs) > 1:
        parts = paragraph("No option differs but the runs' names and places.")
    rows = tuple((name, *values) for name, values in every.items())
    return parts + details("All options", data_table(Table("", "All options", header, rows), True))


def environment(runs: Sequence[RunRecord]) -> str:
    """For each run its command lines, and on what and with which versions it ran."""
    return "".join(heading(run.name) + _starts(run) for run in runs)


def settings(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The settings of `repa probe` and `repa align`, folded away."""
    parts = []
    for command, values in found.items():
        title = f"Settings of repa {command}"
        rows = tuple((name, _text(values, name)) for name in values)
        parts.append(details(title, data_table(Table("", title, ("setting", "value"), rows), True)))
    return "".join(parts)


def _starts(run: RunRecord) -> str:
    """Of runs that are older than starts.jsonl, what config and checkpoint tell."""
    if not run.starts:
        command = f"repa train --config {run.folder / 'config.yaml'}"
        return _command(command) + _facts({"versions": run.versions})
    parts = []
    for start in run.starts:
        if len(run.starts) > 1:
            parts.append(paragraph(f"Started at step {start['step']:,}:"))
        parts.append(_command(str(start.get("command", ""))) + _facts(start))
    return "".join(parts)


def _command(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>' if text else ""


def _facts(start: Mapping[str, Any]) -> str:
    """One line: device, processes, precision, machine, versions."""
    facts = []
    if "device" in start:
        processes = start.get("processes", 1)
        facts.append(f"{start['device']}, {processes} process{'' if processes == 1 else 'es'}")
    if "precision" in start:
        facts.append(f"precision {start['precision']}")
    if "machine" in start:
        facts.append(str(start["machine"]))
    versions = start.get("versions")
    if isinstance(versions, Mapping):
        facts += [f"{name} {version}" for name, version in versions.items()]
    return paragraph("; ".join(facts), "note")


def _text(values: Mapping[str, Any], name: str) -> Cell:
    """As YAML and JSON write it; an option that a run does not know is a dash."""
    if name not in values:
        return "–"
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value, default=str)
