"""Runs of different objectives on one page: what may be compared, and what may not."""

from pathlib import Path

import pytest

from repa.report.comparison import Comparison
from repa.report.overview import Measured, overview
from repa.report.runs import Analysis, read_runs
from repa.report.training_charts import training_charts
from repa.report.verdict import verdicts
from report.folders import STEPS, align_row, evaluation, probe_row, write_lines, write_run

DIT, X = {"model": "DiT-B/2"}, {"prediction": "x"}
RUNS = {"sit": {}, "sit-repa": {}, "dit": DIT, "dit-repa": DIT, "x": X}


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    folders = []
    for place, (name, options) in enumerate(RUNS.items()):
        aligned = "dinov2-vit-b" if name.endswith("repa") else "none"
        folder = write_run(tmp_path / name, aligned, **options)
        lines = [evaluation(s, 100.0 - s / 10_000 - 8 * place) for s in STEPS]
        write_lines(folder / "evaluations.jsonl", lines)
        folders.append(folder)
    probes = [probe_row(name, depth) for name in RUNS for depth in range(1, 13)]
    alignments = [align_row(name, depth) for name in RUNS for depth in range(1, 13)]
    return Comparison(read_runs(folders), Analysis(probes, alignments))


def row(comparison: Comparison, title: str) -> Measured:
    [found] = [row for row in overview(comparison) if row.title.startswith(title)]
    return found


def test_objectives_are_told_where_they_differ(comparison: Comparison) -> None:
    sit, dit = "linear path, predicts v", "DDPM, predicts eps"
    texts = row(comparison, "objective").texts
    assert texts == (sit, sit, dit, dit, "linear path, predicts x")
    same = comparison.between(comparison.runs[:2])
    assert not [row for row in overview(same) if row.title == "objective"]


def test_losses_of_different_objectives_have_no_best(comparison: Comparison) -> None:
    assert row(comparison, "last denoising loss").best() == set()
    assert row(comparison.between(comparison.runs[2:4]), "last denoising loss").best() == {1}
    [chart] = [c for c in training_charts(comparison.groups) if c.title.startswith("Denoising")]
    assert "dit: DDPM, predicts eps; " in chart.note
    same = comparison.between(comparison.runs[:2])
    assert not any(chart.note for chart in training_charts(same.groups))


def test_hidden_states_at_other_noise_are_not_better_or_worse(comparison: Comparison) -> None:
    mixed = row(comparison, "top-1 accuracy")
    assert mixed.best() == set()
    assert not mixed.is_finding
    paths = comparison.between([comparison.runs[0], comparison.runs[4]])  # of one path
    assert row(paths, "top-1 accuracy").is_finding
    charts = [*comparison.probe_charts(), *comparison.align_charts()]
    assert charts
    assert all("not equally noisy" in chart.note for chart in charts)
    same = comparison.between(comparison.runs[:2])
    assert not any(chart.note for chart in same.probe_charts())


def test_each_is_compared_with_the_plain_run_of_its_objective(comparison: Comparison) -> None:
    said = {v.subject.split(" (")[0]: v for v in verdicts(comparison)}
    assert said.keys() == {"sit-repa", "dit", "dit-repa", "x"}
    against = {
        name: v.subject.split("compared with ")[1].split(" (")[0] for name, v in said.items()
    }
    assert against == {"sit-repa": "sit", "dit": "sit", "dit-repa": "dit", "x": "sit"}
    about = {name: " ".join(v.findings) for name, v in said.items()}
    for name in said:
        assert "FID" in about[name]
        assert ("CKNNA" in about[name]) == (name != "dit")
    assert "times sooner" in about["sit-repa"]
    assert "times sooner" not in about["dit-repa"]
