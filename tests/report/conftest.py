"""A plain and an aligned run, and an analysis of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from repa.data import PreparedDataset
from repa.report.comparison import Comparison
from repa.report.page import write_report
from repa.report.runs import RunRecord, read_analysis, read_runs
from repa.sampling import save_grid
from report.folders import (
    ALIGNED,
    DEPTHS,
    FIDS,
    STEPS,
    TIMES,
    VERSIONS,
    align_row,
    evaluation,
    probe_row,
    write_lines,
    write_run,
)


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory: pytest.TempPathFactory, emoji: PreparedDataset) -> list[Path]:
    """A plain and an aligned run of 400,000 steps, the aligned one evaluated, drawn and resumed."""
    base = tmp_path_factory.mktemp("runs")
    folders = [write_run(base / "plain"), write_run(base / "repa", "dinov2-vit-b")]
    images = torch.from_numpy(emoji.images(range(32))).float()
    noise = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, images.shape)).float()
    for folder in folders:
        name = folder.name
        lines = [evaluation(s, fid) for s, fid in zip(STEPS, FIDS[name], strict=True)]
        write_lines(folder / "evaluations.jsonl", lines)
        write_lines(folder / "probes.jsonl", [probe_row(name, ALIGNED, step=s) for s in STEPS])
        write_lines(folder / "alignments.jsonl", [align_row(name, ALIGNED, step=s) for s in STEPS])
        (folder / "previews").mkdir()
        for step in STEPS if name == "repa" else STEPS[1:]:
            share = 0.8 * math.exp(-step / 90_000)
            grid = ((1 - share) * images + share * noise).to(torch.uint8)
            save_grid(grid, folder / "previews" / f"{step:07d}.png")
    start = {"step": 0, "command": "repa train --config configs/b.yaml", "processes": 8,
             "device": "NVIDIA H200", "precision": "bf16", "versions": VERSIONS,
             "machine": "Linux x86_64"}  # fmt: skip
    write_lines(folders[1] / "starts.jsonl", [start, start | {"step": 200_000}])
    state = folders[0] / "checkpoints" / "0400000" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"step": 400_000, "versions": VERSIONS}))
    result = evaluation(0, 5.7, reference={"path": "val.npz"}, network_weights="00")
    drawn = {"step": 400_000, "cfg_scale": 1.8, "mode": "sde", "num_steps": 250}
    result["samples"] = {"path": "repa.npz", "count": 50_000, "drawn": drawn}
    (folders[1] / "guided.json").write_text(json.dumps(result))
    return folders


@pytest.fixture(scope="session")
def runs(run_folders: list[Path]) -> list[RunRecord]:
    return read_runs(run_folders)


@pytest.fixture(scope="session")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `repa probe` and `repa align` write about these runs."""
    folder = tmp_path_factory.mktemp("analysis")
    names = [(name, d, t) for name in ("plain", "repa") for t in TIMES for d in DEPTHS]
    probes = [probe_row(*name) for name in names]
    for subject, name, top1 in (("encoder", "dinov2-vit-b", 0.74), ("pixels", "pixels", 0.12)):
        probes.append({"subject": subject, "name": name, "top1": top1, "top5": 0.9,
                       "learning_rate": 0.01, "weight_decay": 0.0})  # fmt: skip
    alignments = [align_row(*name) for name in names]
    pair = {"subject": "encoder", "name": "clip-vit-l", "encoder": "dinov2-vit-b"}
    alignments.append(pair | {"cknna": 0.31, "cka": 0.52, "mutual_knn": 0.28})
    spatial = [{"encoder": "dinov2-vit-b", "lds": 0.31, "cds": 0.045, "rmsc": 0.82}]
    settings = {"data_dir": "data/imagenet", "num_images": 10_000, "seed": 0, "pooling": "mean"}
    for kind, rows, more in (("probe", probes, {}), ("align", alignments, {"spatial": spatial})):
        content = {"kind": kind, "settings": settings, "rows": rows} | more
        (folder / f"{kind}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def page(runs: list[RunRecord], analysis: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of all that."""
    folder = tmp_path_factory.mktemp("report")
    return write_report(Comparison(runs, read_analysis(analysis, runs)), folder)
