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
    links = re.findall(r"(?:src|href)=[\"']?([^\"'\s>]{5})", page)
    assert set(links) == {"data:"}
    assert "http" not in re.sub(r"data:[^\"]+", "", page)  # base64 may spell anything
    images = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(images) == 3  # plain, REPA, real
    for data in images:
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.width > 32
    assert len(re.findall(r"data:image/svg\+xml;base64,", page)) == 4


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
