"""No job overwrites another's output, and two jobs on one folder are told apart."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.preparing import snapshot
from evaluation.disk import full_disk
from reliability import small_runs
from reliability.jobs import full_only
from repa.cli import main
from repa.data.verify import verify
from repa.locks import LOCK

pytestmark = pytest.mark.promise("6 data loss")

# A command that has reached the middle of its work, and goes on when the file "go" is there.
HALTED = """
import sys, time
from pathlib import Path
from repa.cli import main
from repa.data import encode
from repa.sampling import command

def halt(function):
    def halted(*arguments, **options):
        Path("reached").touch()
        while not Path("go").exists():
            time.sleep(0.01)
        return function(*arguments, **options)
    return halted

encode.pack_features = halt(encode.pack_features)
command.generate_latents = halt(command.generate_latents)
sys.exit(main())
"""


@pytest.fixture(scope="module")
def run(emoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(small_runs.command(emoji_dir, folder, steps=1)) == 0
    return folder


def _prepare(source: str, dest: Path, *more: str) -> list[str]:
    return [
        "prepare", f"--source={source}", f"--dest={dest}", "--resolution=32", "--device=cpu",
        "--autoencoder=pixel", "--enc-type=efficientnet-lite0", "--feature-grid=4",
        "--max-images=6", "--num-workers=1", *more,
    ]  # fmt: skip


def _sample(run: Path, name: Path, *more: str) -> list[str]:
    return [
        "sample", f"--ckpt={run}", f"--sample-dir={name}", "--num-fid-samples=3",
        "--num-steps=2", "--device=cpu", *more,
    ]  # fmt: skip


def _start(arguments: list[str], folder: Path) -> subprocess.Popen:
    """A job in a process of its own, in the middle of its work."""
    folder.mkdir(exist_ok=True)
    for name in ("reached", "go"):
        (folder / name).unlink(missing_ok=True)
    command = [sys.executable, "-c", HALTED, *arguments]
    job = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # to the same bits
    )  # fmt: skip
    while not (folder / "reached").exists():
        assert job.poll() is None, job.stderr and job.stderr.read()
        time.sleep(0.02)
    return job


def _end(job: subprocess.Popen, folder: Path) -> int:
    (folder / "go").touch()
    job.communicate(timeout=120)
    return job.returncode


def _refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1
    return error.splitlines()[-1]


def test_a_second_job_on_a_dataset_is_refused_and_the_first_unharmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], survived: Callable[[], None]
) -> None:
    dest = tmp_path / "data"
    job = _start(_prepare("twemoji", dest), tmp_path / "job")
    others = [_prepare("twemoji", dest), _prepare("twemoji-train", dest)]
    others.append(["prepare", f"--dest={dest}", "--enc-type=efficientnet-lite1", "--device=cpu"])
    for arguments in others:
        before = snapshot(dest)
        error = _refused(arguments, capsys)
        assert f"{dest} is in use by another job (process {job.pid} on " in error
        assert snapshot(dest) == before
        survived()
    assert _end(job, tmp_path / "job") == 0
    assert main(_prepare("twemoji", tmp_path / "alone")) == 0
    alone, ours = snapshot(tmp_path / "alone"), snapshot(dest)
    assert alone == ours
    assert LOCK not in ours
    survived()


def test_a_killed_job_leaves_a_dataset_that_goes_on_at_once(
    tmp_path: Path, survived: Callable[[], None], runs: int
) -> None:
    assert main(_prepare("twemoji", tmp_path / "alone")) == 0
    for trial in range(max(1, runs // 4)):
        dest = tmp_path / f"data{trial}"
        job = _start(_prepare("twemoji", dest), tmp_path / "job")
        job.kill()
        job.wait()
        assert main(_prepare("twemoji", dest)) == 0  # and is not refused
        assert snapshot(dest) == snapshot(tmp_path / "alone")
        shutil.rmtree(dest)
        survived()


@full_only
def test_a_second_job_on_samples_is_refused_and_the_first_unharmed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], survived: Callable[[], None]
) -> None:
    name = tmp_path / "samples" / "a"
    job = _start(_sample(run, name), tmp_path / "job")
    for more in ([], ["--seed=1"], ["--seed=1", "--overwrite"]):
        error = _refused(_sample(run, name, *more), capsys)
        assert f"{name} is in use by another job (process {job.pid} on " in error
        survived()
    assert main(_sample(run, tmp_path / "samples" / "b")) == 0  # another name beside it
    assert _end(job, tmp_path / "job") == 0
    assert name.with_suffix(".npz").read_bytes() == (tmp_path / "samples/b.npz").read_bytes()
    survived()

    job = _start(_sample(run, name, "--seed=1", "--overwrite"), tmp_path / "job")
    job.kill()
    job.wait()
    assert main(_sample(run, name, "--seed=1")) == 0
    survived()


def test_outputs_of_other_jobs_stay_without_overwrite(
    run: Path,
    emoji_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    survived: Callable[[], None],
) -> None:
    name = tmp_path / "a"
    assert main(_sample(run, name)) == 0
    judge = [
        "evaluate", f"--reference={emoji_dir}", "--network=efficientnet-lite0", "--device=cpu"
    ]  # fmt: skip
    output = f"--output={tmp_path / 'result.json'}"
    stats = f"--save-stats={tmp_path / 'stats.npz'}"
    samples = f"--samples={emoji_dir}"
    report = ["report", str(run), f"--output-dir={tmp_path / 'report'}"]
    assert main([*judge, samples, output]) == 0
    assert main([*judge, samples, stats]) == 0
    assert main(report) == 0
    other = tmp_path / "other"
    shutil.copytree(run, other)
    align = ["align", f"--data-dir={emoji_dir}", "--enc-type=efficientnet-lite0,pixels"]
    align += [f"--output-dir={tmp_path / 'analysis'}", "--device=cpu"]
    assert main([*align, "--num-images=20"]) == 0
    np.savez(tmp_path / "c.npz", precious=1)
    trials = [
        (_sample(run, name, "--seed=1"), r"holds other samples"),
        (_sample(run, tmp_path / "c"), r"c.npz exists"),
        ([*judge, samples, output, "--neighbors=2"], "holds the result of another job"),
        ([*judge, samples, stats], "stats.npz exists"),
        (["report", str(other), *report[2:]], "holds a report of other runs"),
        ([*align, "--num-images=21"], "holds results of other settings"),
    ]
    for arguments, message in trials:
        before = snapshot(tmp_path)
        error = _refused(arguments, capsys)
        assert message in error
        assert "--overwrite" in error
        assert snapshot(tmp_path) == before
        assert main([*arguments, "--overwrite"]) == 0
        survived()
    for arguments in (
        [*judge, samples, output, "--neighbors=2"],
        ["report", str(other), *report[2:]],
    ):
        assert main(arguments) == 0  # the same job again is at home
        survived()


def test_strangers_files_stay(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], survived: Callable[[], None]
) -> None:
    for name in ("data/notes.txt", "report/notes.txt", "result.json", "pretrained/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
    before = snapshot(tmp_path)
    trials = [
        (_prepare("twemoji", tmp_path / "data"), "is not a prepared dataset"),
        (["report", str(run), f"--output-dir={tmp_path / 'report'}"], "holds other files"),
        (
            ["evaluate", f"--samples={run}", f"--reference={run}", "--overwrite",
             f"--output={tmp_path / 'result.json'}"],
            "is no former result",
        ),
        (
            ["convert", f"--ckpt={run}", f"--dest={tmp_path / 'pretrained'}", "--to=pretrained",
             "--overwrite"],
            "--overwrite does not replace it",
        ),
    ]  # fmt: skip
    for arguments, message in trials:
        assert message in _refused(arguments, capsys)
        assert snapshot(tmp_path) == before
        survived()


def test_a_full_disk_ends_in_a_line_and_what_was_there_stays(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], survived: Callable[[], None]
) -> None:
    dest, name = tmp_path / "data", tmp_path / "a"
    assert main(_prepare("twemoji", dest)) == 0
    assert main(_sample(run, name)) == 0
    assert main(["report", str(run), f"--output-dir={tmp_path / 'report'}"]) == 0
    before = snapshot(tmp_path)
    trials = [
        _prepare("twemoji", dest, "--enc-type=efficientnet-lite0,efficientnet-lite1"),
        _prepare("twemoji", tmp_path / "new", "--num-workers=0"),
        _sample(run, tmp_path / "b"),
        ["report", str(run), f"--output-dir={tmp_path / 'report'}"],
    ]
    for arguments in trials:
        with full_disk():
            assert "File too large" in _refused(arguments, capsys)
        there = snapshot(tmp_path)
        kept = before.keys() - {"data/manifest.json"}
        assert {path: there[path] for path in kept} == {path: before[path] for path in kept}
        survived()
    assert verify(dest)[1] == {}
    assert main(trials[0]) == 0  # with space again it goes on
    survived()
