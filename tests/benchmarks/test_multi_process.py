"""The benchmark of several processes: that it runs, and that a failure ends it."""

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
# Called, each gives a step. They go to other processes, so they are made of the library's.
SLOW = partial(partial, time.sleep, 0.05)
BROKEN = partial(partial, operator.truediv, 1, 0)


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def test_a_groups_rate_is_that_of_all_its_processes() -> None:
    from multi_process import Group

    group = Group(SLOW, 2, connected=False)
    assert 1 < group.steps_per_second(4) <= 2 / 0.05
    assert group.stop() > 2**20


def test_a_process_that_fails_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    from multi_process import Group

    group = Group(BROKEN, 2, connected=True)
    with pytest.raises(RuntimeError, match="a process failed"):
        group.steps_per_second(1)
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_it_measures_both_ways(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(FOLDER / "multi_process.py"), "--model=SiT-S/8", "--batch=2"]
    command += ["--rounds=1", "--steps=1", f"--json={out}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    together, alone = (result["ways"][name] for name in ("together", "alone"))
    assert result["efficiency"] == together["images_per_second"] / alone["images_per_second"]
    assert together["rounds"] == [together["images_per_second"]]
    assert f"efficiency {result['efficiency']:.1%}" in done.stdout


def test_one_process_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import multi_process

    monkeypatch.setattr(sys, "argv", ["multi_process.py", "--processes=1"])
    with pytest.raises(SystemExit):
        multi_process.main()
    assert "--processes 1: expected 2 to" in capsys.readouterr().err
