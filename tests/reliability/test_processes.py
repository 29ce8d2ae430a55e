"""Several processes: a dead one ends all within a minute, with the first error on top."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from reliability.jobs import TORCHRUN, TRAIN, Job, children, full_only, start, start_tasks
from repa.cli import main
from repa.files import read_json_lines

pytestmark = pytest.mark.promise("4 several processes")

REPOSITORY = Path(__file__).parents[2]
DIED = "ended without a word (killed? out of memory?)"
MINUTE = 60


def train(data: Path, output: Path, *changes: str) -> list[str]:
    return ["train", f"--data-dir={data}", f"--output-dir={output}", *TRAIN, *changes]


def long_run(data: Path, output: Path) -> list[str]:
    return train(data, output, "--exp-name=run", "--max-train-steps=100000")


def check_end(job: Job, said: str) -> float:
    """All end, none well, the error said once, without a traceback; the seconds that it took."""
    began = time.monotonic()
    assert all(code != 0 for code in job.wait(MINUTE))
    text = job.text
    assert text.count(said) == 1, text
    assert "Traceback" not in text
    return time.monotonic() - began


def test_a_killed_process_ends_a_training_at_any_time(
    emoji_dir: Path, tmp_path: Path, runs: int, survived, record_property
) -> None:
    """Without a launcher that would end the others."""
    draw = random.Random(0)
    seconds = []
    for trial in range(runs // 2):  # each takes seconds to start
        output = tmp_path / f"{trial}.txt"
        command = ["-m", "repa.cli", *long_run(emoji_dir, tmp_path / str(trial))]
        job = start_tasks(output, 2, *command)
        job.wait_for("step/s")  # they know each other
        time.sleep(draw.uniform(0, 3))
        victim = trial % 2
        job.processes[victim].kill()
        seconds.append(check_end(job, f"process {victim} ("))
        assert DIED in job.text
        survived()
    record_property("slowest end in seconds", round(max(seconds), 1))


@full_only
def test_a_killed_process_ends_a_job_of_torchrun(emoji_dir: Path, tmp_path: Path) -> None:
    command = [
        *TORCHRUN,
        "--nproc-per-node=2",
        str(REPOSITORY / "train.py"),
        *long_run(emoji_dir, tmp_path)[1:],
    ]
    job = start(tmp_path / "output.txt", [command], [{}])
    job.wait_for("step/s")
    [launcher] = job.processes
    workers = children(launcher.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    assert job.wait(MINUTE) == [1]
    assert job.text.count("process 1 (") == 1
    assert job.text.index(DIED) < job.text.index("Traceback")  # torchrun's own, which says it too
    assert job.text.count("Traceback") == 1
    assert "Signal 9 (SIGKILL)" in job.text
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=full_only), 1])
def test_a_killed_process_ends_a_preparation(tmp_path: Path, victim: int) -> None:
    command = ["prepare", "--source=twemoji", f"--dest={tmp_path / 'data'}", "--resolution=256"]
    command += ["--autoencoder=pixel", "--enc-type=none", "--num-workers=1", "--device=cpu"]
    job = start_tasks(tmp_path / "output.txt", 2, "-m", "repa.cli", *command)
    job.wait_for("image/s")
    job.processes[victim].kill()
    check_end(job, f"process {victim} (")
    assert DIED in job.text


FAILS = """
import ctypes, os, sys, time
from repa.cli import main
from repa.errors import RepaError
from repa.training import loop

class Step(loop.TrainingStep):
    steps = 0

    def __call__(self, arrays):
        self.steps += 1
        if os.environ["RANK"] == sys.argv[1] and self.steps == 3:
            {happens}
        return super().__call__(arrays)

loop.TrainingStep = Step
sys.exit(main(sys.argv[2:]))
"""


def start_with(
    happens: str, process: int, processes: int, tmp_path: Path, arguments: list[str]
) -> Job:
    """A job in one process of which something happens at the third step."""
    (tmp_path / "script.py").write_text(FAILS.format(happens=happens))
    command = [str(tmp_path / "script.py"), str(process), *arguments]
    return start_tasks(tmp_path / "output.txt", processes, *command)


def test_an_error_of_one_process_ends_all_and_is_said_once(emoji_dir: Path, tmp_path: Path) -> None:
    happens = 'raise RepaError("the disk of one is full")'
    job = start_with(happens, 1, 3, tmp_path, long_run(emoji_dir, tmp_path))
    check_end(job, "repa train: error: the disk of one is full")
    assert "process 1 (" in job.text
    assert [p.returncode for p in job.processes] == [2, 2, 2]


@full_only
def test_a_bug_in_one_process_ends_all_with_one_traceback(emoji_dir: Path, tmp_path: Path) -> None:
    happens = 'raise KeyError("no such thing")'
    job = start_with(happens, 1, 2, tmp_path, long_run(emoji_dir, tmp_path))
    assert job.wait(MINUTE) == [1, 1]
    assert job.text.count("Traceback") == 1
    last = job.text.split("\nprocess 1 (")[1]  # the first error is above the traceback
    assert last.splitlines()[0].endswith("): KeyError: 'no such thing'")


@full_only
def test_a_process_busier_than_the_others_is_not_taken_for_dead(
    emoji_dir: Path, tmp_path: Path
) -> None:
    """Even if it lets none of its threads run meanwhile; and a good end has no word of others."""
    command = train(emoji_dir, tmp_path, "--exp-name=run", "--max-train-steps=4")
    job = start_with("ctypes.PyDLL(None).sleep(6)", 0, 2, tmp_path, command)
    assert job.wait(2 * MINUTE) == [0, 0], job.text
    assert not any(word in job.text for word in ("process", "warning", "Traceback")), job.text


@full_only
def test_a_run_goes_on_with_other_numbers_of_processes(emoji_dir: Path, tmp_path: Path) -> None:
    def command(steps: int, name: str) -> list[str]:
        changes = ("--max-train-steps", str(steps), "--exp-name", name, "--checkpointing-steps=2")
        return train(emoji_dir, tmp_path, *changes)

    def losses(name: str) -> list[float]:
        return [line["loss"] for line in read_json_lines(tmp_path / name / "metrics.jsonl")]

    assert main(command(9, "whole")) == 0
    assert main(command(3, "parts")) == 0
    job = start_tasks(tmp_path / "output.txt", 2, "-m", "repa.cli", *command(6, "parts"))
    assert job.wait(2 * MINUTE) == [0, 0], job.text
    assert main(command(9, "parts")) == 0
    starts = read_json_lines(tmp_path / "parts" / "starts.jsonl")
    assert [(line["processes"], line["step"]) for line in starts] == [(1, 0), (2, 3), (1, 6)]
    assert losses("parts") == pytest.approx(losses("whole"), abs=1e-5)
