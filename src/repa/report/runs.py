"""What a run left in its folder, and what an analysis folder holds, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

from repa.errors import RepaError
from repa.files import read_json_lines
from repa.recipes import read_yaml
from repa.report.names import named_rows, names_of, printable
from repa.report.results import read_evaluations, read_json, read_results
from repa.report.times import with_seconds

Line = dict[str, Any]

MODEL_KEYS: dict[str, type] = {
    "name": str,
    "step": Real,
    "weights": str,
    "depth": Real,
    "time": Real,
}
ROW_KEYS: dict[str, dict[str, type]] = {
    "probe": {"top1": Real, "top5": Real},
    "align": {"encoder": str, "cknna": Real, "cka": Real, "mutual_knn": Real},
}


@dataclass(frozen=True)
class RunRecord:
    """A run as its files tell it.

    Attributes:
        name: of its folder; with more of the path where two runs have the same.
        folder: where it lies.
        options: all options of the run by name (`config.yaml`).
        metrics: lines of training, in order of steps, with the `training_seconds` until each.
        evaluations: of samples drawn during training, and results of `repa evaluate` for samples of
            its checkpoints (`evaluations/*.json`), in order of steps.
        probes, alignments: rows about this run, as `repa probe` and `repa align` have them.
        previews: grids of samples by step.
        starts: one for each start of training; none in older runs.
        results: of `repa evaluate` beside its configuration, by the file's name.
        versions: of the programs that wrote its newest checkpoint.
    """

    name: str
    folder: Path
    options: Mapping[str, Any]
    metrics: Sequence[Line]
    evaluations: Sequence[Line]
    probes: Sequence[Line]
    alignments: Sequence[Line]
    previews: Mapping[int, Path]
    starts: Sequence[Line]
    results: Mapping[str, Line]
    versions: Mapping[str, str]

    @property
    def is_aligned(self) -> bool:
        """Whether the run was trained with representation alignment."""
        return (
            self.options.get("enc_type", "none") != "none" and self.options.get("proj_coeff") != 0
        )

    @property
    def process(self) -> str:
        """From data to noise: at one time, runs of one process see equally noisy images."""
        if str(self.options.get("model", "")).startswith("DiT-"):
            return "DDPM"
        return f"{self.options.get('path_type', 'linear')} path"

    @property
    def objective(self) -> str:
        """What its denoising loss is: losses of different objectives are not to be compared."""
        parts = [self.process, f"predicts {self.options.get('prediction', 'v')}"]
        weighting = self.options.get("weighting", "uniform")
        return ", ".join([*parts, *([f"{weighting} times"] if weighting != "uniform" else [])])

    @property
    def last_step(self) -> int:
        """The last step that anything tells of."""
        steps = [line["step"] for line in (*self.metrics, *self.evaluations)]
        return max([*steps, *self.previews], default=0)


@dataclass(frozen=True)
class Analysis:
    """What `repa probe` and `repa align` found; each part may be empty.

    Attributes:
        probes, alignments: their rows.
        spatial: of each encoder's tokens.
        settings: by command.
    """

    probes: Sequence[Line] = ()
    alignments: Sequence[Line] = ()
    spatial: Sequence[Line] = ()
    settings: Mapping[str, Line] = field(default_factory=dict)


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The runs in these folders, with names that differ.

    Raises:
        RepaError: if a folder is missing, given twice, no run, or holds a damaged file.
    """
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise RepaError(f"{folder} is given twice: name each run once")
    runs = []
    for folder, name in zip(folders, names_of(places), strict=True):
        run = _read_run(folder)
        probes, alignments = (
            [row | {"name": name} for row in rows] for rows in (run.probes, run.alignments)
        )
        runs.append(replace(run, name=name, probes=probes, alignments=alignments))
    return runs


def read_analysis(folder: Path, runs: Sequence[RunRecord]) -> Analysis:
    """What the folder holds; rows about one of the runs get its name.

    Raises:
        RepaError: if a file is damaged or of another kind.
    """
    found = {kind: _read_results(folder / f"{kind}.json", kind) for kind in ROW_KEYS}
    probe, align = found["probe"], found["align"]
    names = {run.folder.resolve(): run.name for run in runs}
    return Analysis(
        named_rows(probe.get("rows", []), names),
        named_rows(align.get("rows", []), names),
        align.get("spatial") or [],
        {kind: content["settings"] for kind, content in found.items() if content},
    )


def _read_run(folder: Path) -> RunRecord:
    if not folder.is_dir():
        raise RepaError(f"no run in {folder}: there is no such folder (expected that of a run)")
    config = folder / "config.yaml"
    if not config.is_file():
        raise RepaError(
            f"{folder} is no run: it has no config.yaml (expected a folder that `repa train` wrote)"
        )
    name = printable(folder.resolve().name)
    pictures = [path for path in (folder / "previews").glob("*.png") if path.stem.isdecimal()]
    options = read_yaml(config, f"cannot read {config}")
    starts = _read_steps(folder / "starts.jsonl")
    first_step = starts[0]["step"] if starts else 0
    evaluations = [
        *_read_steps(folder / "evaluations.jsonl"),
        *read_evaluations(folder / "evaluations"),
    ]
    return RunRecord(
        name,
        folder,
        options,
        with_seconds(_read_steps(folder / "metrics.jsonl"), options, first_step),
        sorted(evaluations, key=lambda line: line["step"]),
        _own_rows(folder / "probes.jsonl", "probe"),
        _own_rows(folder / "alignments.jsonl", "align"),
        {int(path.stem): path for path in sorted(pictures)},
        starts,
        read_results(folder),
        _read_versions(folder),
    )


def _read_steps(path: Path) -> list[Line]:
    """Lines in order of their steps; none if there is no file."""
    lines = read_json_lines(path) if path.exists() else []
    for number, line in enumerate(lines, 1):
        _check(line, {"step": Real}, f"{path}, line {number}")
    return sorted(lines, key=lambda line: line["step"])


def _own_rows(path: Path, kind: str) -> list[Line]:
    lines = _read_steps(path)
    for number, line in enumerate(lines, 1):
        _check_row(line, kind, f"{path}, line {number}")
    return lines


def _read_versions(folder: Path) -> Mapping[str, str]:
    states = sorted((folder / "checkpoints").glob("*/state.json"))
    if not states:
        return {}
    state = read_json(states[-1])
    versions = state.get("versions") if isinstance(state, dict) else None
    return versions if isinstance(versions, dict) else {}


def _read_results(path: Path, kind: str) -> dict[str, Any]:
    """The content of an analysis folder's file; nothing if it is not there."""
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise RepaError(f"{path} is no result of `repa {kind}`: move it away")
    for name, expected in (("settings", dict), ("rows", list)):
        if not isinstance(content.get(name), expected):
            raise RepaError(f"{path} is damaged: {name!r} is missing (run `repa {kind}` again)")
    for number, row in enumerate(content["rows"], 1):
        _check_row(row, kind, f"{path}, row {number}")
    for number, row in enumerate(content.get("spatial") or [], 1):
        _check(row, {"encoder": str}, f"{path}, encoder {number}")
    return content


def _check_row(row: Any, kind: str, where: str) -> None:
    _check(row, {"subject": str, "name": str}, where)
    is_model = row["subject"] == "model"
    _check(row, ROW_KEYS[kind] | (MODEL_KEYS if is_model else {}), where)
    if row.get("encoder_depth") is not None:
        _check(row, {"encoder_depth": Real}, where)


def _check(value: Any, expected: Mapping[str, type], where: str) -> None:
    if not isinstance(value, dict):
        raise RepaError(f"{where}: expected an object, found {type(value).__name__}")
    for name, kind in expected.items():
        found: Any = value.get(name)
        fits = isinstance(found, kind) and not isinstance(found, bool)
        if not fits or (kind is Real and not math.isfinite(found)):
            what = "a number" if kind is Real else "text"
            raise RepaError(f"{where}: {name!r} is {found!r}, expected {what}")
