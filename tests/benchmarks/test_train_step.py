"""The training step's benchmark: what it counts, and that it runs."""

import json
import operator
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
# Ways: called, each gives its step. They go to other processes, so they are made of the library's.
SHORT, LONG = (partial(partial, time.sleep, seconds) for seconds in (0.001, 0.05))
BROKEN = partial(partial, operator.truediv, 1, 0)


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def test_operations_are_those_of_the_matrix_products() -> None:
    from flops import forward_flops

    tokens, width, depth, patch = 256, 384, 12, 2 * 2 * 4
    block = 12 * tokens * width**2 + 2 * tokens**2 * width + 6 * width**2  # adaLN last
    ends = 2 * tokens * patch * width + 2 * width**2 + 256 * width + width**2
    head = tokens * (width * 2048 + 2048**2 + 2048 * 768)
    assert forward_flops("SiT-S/2", [768]) == 2 * (depth * block + ends + head)
    assert forward_flops("SiT-S/2", []) == 2 * (depth * block + ends)


def test_ways_run_in_turn_and_alone() -> None:
    from processes import in_turn

    measured = in_turn({"short": SHORT, "long": LONG}, rounds=3, warmup=1)
    assert list(measured) == ["short", "long"]
    assert [len(taken.seconds) for taken in measured.values()] == [3, 3]
    assert 0.001 <= measured["short"].median < measured["long"].median
    assert measured["long"].median >= 0.05
    assert all(taken.peak > 2**20 for taken in measured.values())


def test_a_way_that_fails_is_named(capfd: pytest.CaptureFixture) -> None:
    from processes import in_turn

    with pytest.raises(RuntimeError, match="broken failed"):
        in_turn({"short": SHORT, "broken": BROKEN}, rounds=1)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_it_measures_our_steps(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "train_step.py"), "--model=SiT-S/8", "--batch=2"]
    command += [
        "--rounds=1",
        "--cached",
        "--ours",
        "bf16",
        "fp32",
        "--json",
        str(tmp_path / "out.json"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, check=True, env=environment, timeout=300)
    result = json.loads((tmp_path / "out.json").read_text())
    ways = result["ways"]
    assert [way["way"] for way in ways] == ["ours bf16", "ours fp32"]
    assert ways[1]["ratio"] == 1
    for way in ways:
        assert way["images_per_second"] == pytest.approx(2 / way["seconds"])
        assert 0 < way["utilization"] < 1.5
    assert result["ceilings"].keys() == {"bf16", "no"}
