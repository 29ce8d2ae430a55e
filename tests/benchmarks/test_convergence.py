"""The experiment, whole, on a handful of images."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
PLAIN = """\
exp_name: plain
data_dir: data
model: SiT-Ti/8
enc_type: none
encoder_depth: 2
max_train_steps: 4
batch_size: 8
checkpointing_steps: 2
sampling_steps: 2
logging_steps: 1
"""
REPA = PLAIN.replace("none", "pixels") + "projector_dim: 16\n"


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 12)):
        for label, shade in (("dark", 60), ("light", 190)):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = shade + random.integers(-50, 50, (32, 32, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    for name, recipe in (("plain", PLAIN), ("repa", REPA)):
        (tmp_path / f"{name}.yaml").write_text(recipe)
    return f"""--train {tmp_path}/train --test {tmp_path}/test --out {tmp_path}/out --device cpu
        --plain {tmp_path}/plain.yaml --repa {tmp_path}/repa.yaml --seeds 0 1 --samples 8
        --sampler-steps 2 --reference-images 20 --classifier-epochs 1
        --analysis-images 20""".split()


def run(arguments: list[str]) -> str:
    command = [sys.executable, "benchmarks/convergence.py", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_it_trains_judges_and_reports_and_goes_on_with_another_arm(
    arguments: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    printed = run(arguments)
    results = (out / "results.md").read_text()
    assert results in printed
    for arm in ("plain", "repa"):
        assert f"| {arm} | " in results
        for seed in (0, 1):
            found = sorted((out / "runs" / f"{arm}-seed{seed}" / "evaluations").glob("*.json"))
            assert len(found) == 2 * 2 + 2  # checkpoints, judges; test images for the last
            judged = json.loads(found[0].read_text())
            assert judged["samples"]["drawn"]["step"] == 2
            assert "class_accuracy" in judged
    assert len(list((out / "nearest").glob("*.png"))) == 3  # plain, repa, test images
    page = (out / "report" / "report.html").read_text()
    assert "plain's mean final" in page

    printed = run([*arguments, "--vary", "--proj-coeff 1.0"])
    commands = [line.split()[2] for line in printed.splitlines() if line.startswith("$ repa ")]
    assert commands.count("sample") == 2 * 2  # checkpoints and seeds of the new arm alone
    assert "| repa-1.0 | " in (out / "results.md").read_text()


def test_options_without_a_value_are_refused(arguments: list[str]) -> None:
    command = [sys.executable, "benchmarks/convergence.py", *arguments, "--vary=--compile"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr == "--vary '--compile': expected options of repa train, each with a value\n"
