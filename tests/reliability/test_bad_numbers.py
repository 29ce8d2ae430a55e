"""Losses and gradients that are not finite: steps are skipped, told of, and in the end refused."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from reliability.jobs import start_tasks
from reliability.small_runs import command
from repa.checkpoints import read_state
from repa.cli import main
from repa.config import TrainOptions
from repa.files import read_json_lines
from repa.training import setup

pytestmark = pytest.mark.promise("3 bad numbers")


def broken_copy(dataset: Path, folder: Path, images: range) -> Path:
    """A dataset in which some images' cached tokens are not numbers."""
    shutil.copytree(dataset, folder)
    [file] = folder.rglob("features.efficientnet-lite0.npy")
    tokens = np.load(file)
    tokens[images.start : images.stop, 3] = np.nan
    np.save(file, tokens)
    return folder


@pytest.fixture
def one_broken(emoji_dir: Path, tmp_path: Path) -> Path:
    return broken_copy(emoji_dir, tmp_path / "broken", range(17, 18))


def test_a_broken_image_costs_its_steps_and_is_named(one_broken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(command(one_broken, run, steps=16)) == 0  # two passes over 64 images
    skipped = read_json_lines(run / "skipped.jsonl")
    assert len(skipped) == 2
    for line in skipped:
        assert line["images_not_finite"] == [17]
        assert 17 in line["images"]
        assert len(line["images"]) == 8
        assert line["losses"]["alignment_loss"] == "nan"
        assert math.isfinite(line["losses"]["denoising_loss"])
        assert line["tensors"]["targets_0"]["not_finite"] == 112  # a token's channels
        assert line["tensors"]["x"]["not_finite"] == 0
        assert -1 <= line["tensors"]["x"]["min"] < line["tensors"]["x"]["mean"] <= 1
    lines = read_json_lines(run / "metrics.jsonl")
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert lines[-1]["skipped_steps"] == 2
    assert read_state(run / "checkpoints" / "0000016").progress.skipped == 2
    for part in ("model", "ema", "optimizer"):
        for name, tensor in load_file(run / "checkpoints/0000016" / f"{part}.safetensors").items():
            assert tensor.isfinite().all(), name


def test_skipped_steps_survive_a_kill_between_them(one_broken: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert main(command(one_broken, whole, steps=16)) == 0
    for steps in (9, 16):
        assert main(command(one_broken, halves, steps=steps)) == 0
    assert read_json_lines(halves / "skipped.jsonl") == read_json_lines(whole / "skipped.jsonl")
    for part in ("model", "ema", "heads", "optimizer"):
        file = Path("checkpoints") / "0000016" / f"{part}.safetensors"
        assert (halves / file).read_bytes() == (whole / file).read_bytes()


def test_too_many_in_a_row_stop_the_run(emoji_dir: Path, tmp_path: Path, capsys) -> None:
    broken, run = broken_copy(emoji_dir, tmp_path / "broken", range(64)), tmp_path / "run"
    assert main(command(emoji_dir, run, steps=3)) == 0
    more = ["--max-skipped-steps", "4"]
    assert main(command(broken, run, *more)) == 2
    told = capsys.readouterr().err
    assert "4 steps in a row, the last of them 7, had a loss or gradients that are not" in told
    assert "skipped.jsonl has their images" in told
    assert "--learning-rate" in told
    assert [line["step"] for line in read_json_lines(run / "skipped.jsonl")] == [4, 5, 6, 7]
    before, after = (run / "checkpoints" / f"000000{step}" for step in (3, 6))
    for part in ("model", "heads", "optimizer"):  # nothing has changed in them
        name = f"{part}.safetensors"
        assert (before / name).read_bytes() == (after / name).read_bytes()
    assert main(command(broken, run, *more)) == 2  # 3 in a row were known at step 6
    assert "4 steps in a row, the last of them 7" in capsys.readouterr().err
    (run / "checkpoints" / "0000006").rename(run / "checkpoints" / "0000006.aside")
    assert main(command(emoji_dir, run, *more)) == 0  # the data is mended


def test_weights_that_explode_stop_the_run(emoji_dir: Path, tmp_path: Path, capsys) -> None:
    more = ["--learning-rate", "1e30", "--max-skipped-steps", "3", "--logging-steps", "1"]
    assert main(command(emoji_dir, tmp_path / "run", *more)) == 2
    assert "3 steps in a row" in capsys.readouterr().err
    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert len(lines) >= 3
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_all_processes_skip_what_one_of_them_cannot_compute(
    one_broken: Path, tmp_path: Path
) -> None:
    """To the same weights as one process that sees the whole batch."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(command(one_broken, alone, "--checkpointing-steps", "8", steps=8)) == 0
    arguments = command(one_broken, together, "--checkpointing-steps", "8", steps=8)
    job = start_tasks(tmp_path / "output.txt", 2, "-m", "repa.cli", *arguments)
    assert job.wait() == [0, 0], job.text
    assert [
        {name: line[name] for name in ("step", "images", "images_not_finite")}
        for line in read_json_lines(alone / "skipped.jsonl")
    ] == [
        {name: line[name] for name in ("step", "images", "images_not_finite")}
        for line in read_json_lines(together / "skipped.jsonl")
    ]
    for part in ("model", "ema"):
        file = Path("checkpoints") / "0000008" / f"{part}.safetensors"
        expected = load_file(alone / file)
        for name, tensor in load_file(together / file).items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-5)


def test_the_scale_of_losses_in_half_precision_goes_on(
    emoji_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate has no scaler on a CPU, so one is given to it."""
    scalers = []

    def start_with_scaler(options: TrainOptions) -> Accelerator:
        accelerator = setup.start(options)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**80, growth_interval=2)
        accelerator.native_amp = True
        scalers.append(accelerator.scaler)
        return accelerator

    monkeypatch.setattr("repa.training.loop.start", start_with_scaler)
    runs = {}
    for name, ends in (("whole", (12,)), ("halves", (9, 12))):
        run = tmp_path / name
        for steps in ends:
            assert main(command(emoji_dir, run, "--max-skipped-steps", "100", steps=steps)) == 0
        runs[name] = read_state(run / "checkpoints" / "0000012")
    assert runs["halves"].scaler == runs["whole"].scaler
    assert runs["whole"].scaler["scale"] != 2.0**80
    assert runs["halves"].progress.skipped == runs["whole"].progress.skipped
    file = Path("checkpoints") / "0000012" / "model.safetensors"
    assert (tmp_path / "halves" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
