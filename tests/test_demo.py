"""The whole demo, a few steps long, and what its report says."""

import base64
import io
import json
import math
import re
from pathlib import Path

import pytest
from PIL import Image

from repa.cli import main

METRICS = {
    "frechet_distance", "precision", "recall", "inception_score", "linear_probe_accuracy", "cknna",
    "images_per_second",
}  # fmt: skip
ARGUMENTS = ["--steps", "4", "--num-samples", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--out", str(out), *ARGUMENTS]) == 0
    return out


def test_summary_has_every_number_of_both_runs(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text())
    for name in ("baseline", "repa"):
        run = summary[name]
        assert run["steps"] == 4
        assert run.keys() > METRICS
        assert all(math.isfinite(run[key]) for key in METRICS)
        assert math.isfinite(run["final_losses"]["denoising_loss"])
    assert "alignment_loss" in summary["repa"]["final_losses"]
    assert "alignment_loss" not in summary["baseline"]["final_losses"]
    assert summary["settings"]["seed"] == 0


def test_report_is_one_file_with_pictures_inside(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    assert "$" not in page  # every placeholder is filled
    links = set(re.findall(r"(?:src|href)=[\"']?([^\"'\s>]{5})", page))
    assert {link for link in links if not link.startswith("#")} == {"data:"}
    images = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(images) == 2 * 4 + 1  # both runs over training, and real ones
    for data in images:
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.width > 32
    assert page.count("<svg") >= 8
    for text in ("did in 4 steps", "efficientnet-lite2", "Twemoji", "Top-1 accuracy"):
        assert text in page


def test_figures_and_numbers_of_the_analysis_are_files(demo: Path) -> None:
    for kind, metric in (("probe", "top1"), ("align", "cknna")):
        rows = json.loads((demo / "analysis" / f"{kind}.json").read_text())["rows"]
        models = [row for row in rows if row["subject"] == "model"]
        assert {(row["name"], row["step"]) for row in models} == {
            (name, step) for name in ("baseline", "repa") for step in (1, 2, 3, 4)
        }
        assert {row["time"] for row in models if row["step"] == 4} == {0.2, 0.5, 0.8}
        assert {row["depth"] for row in models} == set(range(1, 7))
        assert all(math.isfinite(row[metric]) for row in models)
    for ending in ("svg", "png", "csv"):
        assert (demo / "figures" / f"probe-depth-t0.5.{ending}").stat().st_size > 100


def test_a_repeated_demo_changes_nothing_it_measured(demo: Path) -> None:
    before = json.loads((demo / "summary.json").read_text())
    weights = sorted(demo.glob("runs/*/checkpoints/*/*.safetensors"))
    times = [path.stat().st_mtime_ns for path in weights]
    assert main(["demo", "--out", str(demo), *ARGUMENTS]) == 0
    after = json.loads((demo / "summary.json").read_text())
    assert [path.stat().st_mtime_ns for path in weights] == times
    for name in ("baseline", "repa"):
        assert after[name] == before[name]


def test_another_seed_in_the_same_folder_is_refused(demo: Path, capsys) -> None:
    assert main(["demo", "--out", str(demo), *ARGUMENTS, "--seed", "1"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("repa demo: error:")
    assert "--seed" in error
