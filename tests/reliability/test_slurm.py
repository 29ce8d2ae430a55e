"""docs/train.sbatch, with stand-ins for Slurm's commands: a preempted run is queued again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reliability.jobs import TRAIN, full_only
from repa.files import read_json_lines

pytestmark = pytest.mark.promise("2 preemption")

REPOSITORY = Path(__file__).parents[2]
# Starts the tasks and notes their numbers; its exit code is the highest of theirs.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
command = sys.argv[sys.argv.index("bash"):]
tasks = [
    subprocess.Popen(command, env=os.environ | {{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}})
    for n in range(int(os.environ["SLURM_NTASKS"]))
]
with open("tasks.new", "w") as file:
    print(*[task.pid for task in tasks], file=file)
os.rename("tasks.new", "tasks")
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> requeued; fi
"""
REPA = f"""#!/bin/sh
exec {sys.executable} -m repa.cli "$@"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with the commands, and the repository's recipes."""
    (tmp_path / "bin").mkdir()
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL), ("repa", REPA)):
        (tmp_path / "bin" / name).write_text(content)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    return tmp_path


def submit(folder: Path, *arguments: str) -> subprocess.Popen:
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "here", "SLURM_NTASKS": "2"}
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            ["bash", str(REPOSITORY / "docs" / "train.sbatch"), *arguments],
            cwd=folder, stdout=log, stderr=log,
            env=os.environ | job | {"PATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


@full_only
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name)
def test_a_job_told_to_leave_is_queued_again_and_goes_on(
    emoji_dir: Path, cluster: Path, number: signal.Signals
) -> None:
    arguments = [*TRAIN, f"--data-dir={emoji_dir}", "--resolution=32", "--exp-name=run"]
    arguments += [f"--output-dir={cluster}"]
    metrics, requeued = cluster / "run" / "metrics.jsonl", cluster / "requeued"
    job = submit(cluster, *arguments, "--max-train-steps=100000")
    deadline = time.monotonic() + 120
    while not (metrics.exists() and read_json_lines(metrics)):
        assert time.monotonic() < deadline, (cluster / "log.txt").read_text()
        assert job.poll() is None, (cluster / "log.txt").read_text()
        time.sleep(0.1)
    for task in (cluster / "tasks").read_text().split():
        os.kill(int(task), number)
    assert job.wait(60) == 75, (cluster / "log.txt").read_text()
    assert requeued.read_text() == f"requeue {os.getpid()}\n"
    [step] = [int(path.name) for path in (cluster / "run" / "checkpoints").iterdir()]
    assert step == read_json_lines(metrics)[-1]["step"]

    requeued.unlink()
    job = submit(cluster, *arguments, f"--max-train-steps={step + 2}")
    assert job.wait(120) == 0, (cluster / "log.txt").read_text()
    assert not requeued.exists()
    assert [line["step"] for line in read_json_lines(metrics)] == list(range(1, step + 3))


@full_only
def test_a_job_that_fails_is_not_queued_again(cluster: Path) -> None:
    job = submit(cluster, *TRAIN, "--data-dir=nowhere", "--exp-name=run")
    assert job.wait(60) == 2
    assert not (cluster / "requeued").exists()
