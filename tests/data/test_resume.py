import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest

from data.preparing import Averages, Crash, Crashes, run, snapshot
from repa.data import PreparedDataset
from repa.data.format import read_manifest
from repa.data.sources import Source, open_source
from repa.data.state import finish
from repa.errors import RepaError

Write = Callable[[Path, dict[str, bytes]], Path]
SMALL_SHARDS = 4


# Stopping and going on


@pytest.fixture
def whole(tmp_path: Path, source: Source, small_shards: None) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    run(source, tmp_path / "whole", Averages())
    return snapshot(tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_an_interrupted_run_goes_on_to_the_same_files(
    tmp_path: Path, source: Source, whole: dict[str, bytes], fail_at: int, workers: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="on fire"):
        run(source, out, Averages(fail_at), num_workers=workers)
    with pytest.raises(RepaError, match="not finished: run the same"):
        PreparedDataset(out)
    encoder = Averages()
    run(source, out, encoder, num_workers=workers)
    assert snapshot(out) == whole
    batches = [-(-shard.images // 3) for shard in PreparedDataset(out).manifest.shards]
    kept = sum(n for n, total in zip(batches, accumulate(batches), strict=True) if total < fail_at)
    assert encoder.calls == sum(batches) - kept  # whole shards not again


def test_a_crash_before_any_step_of_writing_leaves_what_can_go_on(
    tmp_path: Path, source: Source, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes = Crashes()
    for name in ("mkdir", "rename", "replace"):
        monkeypatch.setattr(Path, name, crashes.wrap(getattr(Path, name)))
    monkeypatch.setattr(os, "fsync", crashes.wrap(os.fsync))
    monkeypatch.setattr("shutil.rmtree", crashes.wrap(shutil.rmtree))

    count, finished = 0, False
    while not finished:
        out = tmp_path / f"out{count}"
        crashes.countdown = count + 1
        try:
            run(source, out, Averages())
            finished = True
        except Crash:
            count += 1
        crashes.countdown = 0
        run(source, out, Averages())
        assert snapshot(out) == whole, f"after a crash before step {count}"
    assert count > 30


def test_a_process_killed_at_any_moment_leaves_what_can_go_on(
    tmp_path: Path, write_folder: Write, picture: Callable[..., bytes]
) -> None:
    """Ten SIGKILLs at random moments; the killer imports everything once and forks the victims."""
    files = {f"{'abc'[i % 3]}/{i:03d}.png": picture(i, (48, 64)) for i in range(150)}
    files["a/000.png"] = files["b/073.png"] = b"broken"
    folder = write_folder(tmp_path / "pictures", files)
    run(open_source(str(folder)), tmp_path / "whole", Averages())
    script = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from data.preparing import Averages, run
from repa.data import prepare
from repa.data.sources import open_source

torch.set_num_threads(1)
prepare.SHARD_ITEMS = 8
source = open_source("pictures")

def victim(out):
    pid = os.fork()
    if pid == 0:
        run(source, Path(out), Averages(), num_workers=2)
        os._exit(0)
    return pid

started = time.perf_counter()
os.waitpid(victim("undisturbed"), 0)
seconds = time.perf_counter() - started
moments = random.Random(0)
for number in range(10):
    pid = victim(f"killed{number}")
    time.sleep(moments.uniform(0, 0.95) * seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TQDM_DISABLE": "1"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    whole = snapshot(tmp_path / "undisturbed")
    unfinished = 0
    for number in range(10):
        out = tmp_path / f"killed{number}"
        manifest = read_manifest(out) if out.exists() else None
        unfinished += manifest is None or not manifest.complete
        run(open_source(str(folder)), out, Averages(), num_workers=2)
        assert snapshot(out) == whole, f"after kill {number}"
    assert unfinished >= 5, "killed too late to test anything"


def test_leftovers_of_a_killed_write_are_replaced(
    tmp_path: Path, source: Source, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="on fire"):
        run(source, out, Averages(fail_at=3))
    shards = out / "shards"
    assert (shards / "00001" / "shard.json").exists()  # cropped, not encoded
    (shards / "00001" / "features.averages.npy").write_bytes(b"renamed, not yet in the record")
    (shards / "00001" / "features.averages.npy.partial").write_bytes(b"half")
    shutil.rmtree(shards / "00002", ignore_errors=True)
    for name in ("00002.partial", "00002"):  # the latter without a record: never renamed by us
        (shards / name).mkdir(exist_ok=True)
        (shards / name / "images.npy").write_bytes(b"half")
    (out / "manifest.json.partial").write_bytes(b"{")
    run(source, out, Averages())
    assert snapshot(out) == whole


def test_a_finished_dataset_is_left_alone(tmp_path: Path, source: Source) -> None:
    out = tmp_path / "out"
    first = run(source, out, Averages())
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    encoder = Averages(fail_at=1)
    assert run(source, out, encoder) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert encoder.calls == 0


@pytest.mark.parametrize(("shard", "items"), [("00001", 9), ("00003", 12)])
def test_a_shard_that_is_gone_at_the_end_is_one_line(
    tmp_path: Path, source: Source, small_shards: None, shard: str, items: int
) -> None:
    out = tmp_path / "out"
    run(source, out)
    shutil.rmtree(out / "shards" / shard)
    message = (
        rf"out has 3 shards with {items} of 13 items: run the same `repa prepare --source` again$"
    )
    with pytest.raises(RepaError, match=message):
        finish(out, {})


def test_what_others_put_beside_a_dataset_without_images_stays(
    tmp_path: Path, write_folder: Write
) -> None:
    source = open_source(str(write_folder(tmp_path / "pictures", {"a/x.png": b"no picture"})))
    out = tmp_path / "out"
    read = source.read

    def put_and_read(index: int) -> bytes:
        for name in ("mine.txt", "text.mine.txt", "shards/mine.txt"):
            (out / name).write_text("precious")
        return read(index)

    source.read = put_and_read  # type: ignore[method-assign]
    with pytest.raises(RepaError, match="no image in pictures"):
        run(source, out)
    assert snapshot(out).keys() == {"mine.txt", "text.mine.txt", "shards/mine.txt"}
