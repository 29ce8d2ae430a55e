"""`repa sample`, in this process and in others."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from repa.checkpoints import find_checkpoint
from repa.checkpoints.checksums import write_checksums
from repa.cli import main
from repa.sampling import generate_latents

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
OPTIONS = ["--num-fid-samples=9", "--num-steps=3", "--mode=sde", "--cfg-scale=1.5", "--device=cpu"]


def images(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        return archive["arr_0"]


def labels(path: Path) -> list[int]:
    return json.loads(path.with_suffix(".json").read_text())["labels"]


def sample(run: Path, out: Path, *arguments: str) -> Path:
    assert main(["sample", f"--ckpt={run}", f"--sample-dir={out}", *OPTIONS, *arguments]) == 0
    return out.with_name(out.name + ".npz")


def test_an_archive_and_on_request_png_files(run: Path, tmp_path: Path, capsys) -> None:
    array = images(sample(run, tmp_path / "a"))
    assert (array.shape, array.dtype) == ((9, 32, 32, 3), np.uint8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.npz"]
    assert "9 images of step 6: " in capsys.readouterr().out
    again = images(sample(run, tmp_path / "b", "--png"))
    np.testing.assert_array_equal(again, array)
    names = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert names == [f"{i:06d}.png" for i in range(9)]
    with Image.open(tmp_path / "b" / "000003.png") as image:
        np.testing.assert_array_equal(np.asarray(image), array[3])


def nearly_equal(a: np.ndarray, b: np.ndarray) -> bool:
    difference = np.abs(a.astype(int) - b)
    return difference.max() <= 1 and (difference > 0).mean() <= 0.001


def test_images_do_not_depend_on_batch_or_processes(run: Path, tmp_path: Path) -> None:
    whole = sample(run, tmp_path / "whole", "--per-proc-batch-size=8")
    small = sample(run, tmp_path / "small", "--per-proc-batch-size=3")
    command = [*TORCHRUN, "-m", "repa.cli", "sample", f"--ckpt={run}"]
    command += [f"--sample-dir={tmp_path / 'two'}", *OPTIONS, "--per-proc-batch-size=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("9 images of step 6") == 1
    two = tmp_path / "two.npz"
    assert labels(whole) == labels(small) == labels(two)
    assert nearly_equal(images(whole), images(small))
    assert two.read_bytes() == small.read_bytes()  # equal batches


KILLED = """
import sys, time
from repa.cli import main
from repa.sampling import command

draw = command.generate_latents

def slow(*arguments):
    time.sleep(0.1)
    return draw(*arguments)

command.generate_latents = slow
sys.exit(main())
"""


def test_a_killed_generation_goes_on(run: Path, tmp_path: Path) -> None:
    whole = sample(run, tmp_path / "whole", "--per-proc-batch-size=1", "--png")
    (tmp_path / "script.py").write_text(KILLED)
    arguments = [f"--ckpt={run}", f"--sample-dir={tmp_path / 'a'}", *OPTIONS, "--png"]
    arguments += ["--per-proc-batch-size=1"]
    command = [sys.executable, "script.py", "sample", *arguments]
    partial = tmp_path / "a.partial"
    for parts in (2, 5):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        while len(list(partial.glob("*/*.npz"))) < parts:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "a.npz").exists()
    assert 5 <= len(list(partial.glob("*/*.npz"))) < 9
    assert main(["sample", *arguments]) == 0
    assert not partial.exists()
    assert (tmp_path / "a.npz").read_bytes() == whole.read_bytes()
    for i in range(9):
        name = f"{i:06d}.png"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_finished_samples_are_not_drawn_again(run: Path, tmp_path: Path, monkeypatch) -> None:
    path = sample(run, tmp_path / "a")
    before = path.stat().st_mtime_ns
    monkeypatch.setattr("repa.sampling.command.generate_latents", None)  # would fail
    sample(run, tmp_path / "a")
    assert path.stat().st_mtime_ns == before


def test_other_samples_of_the_name_are_kept(run: Path, tmp_path: Path, capsys) -> None:
    path = sample(run, tmp_path / "a")
    before = path.read_bytes()
    arguments = ["sample", f"--ckpt={run}", f"--sample-dir={tmp_path / 'a'}", *OPTIONS]
    assert main([*arguments, "--seed=1"]) == 2
    assert "a holds other samples (different: labels, seed): choose" in capsys.readouterr().err
    assert main([*arguments, "--raw-weights"]) == 2
    assert "(different: weights): choose" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main([*arguments, "--seed=1", "--overwrite"]) == 0
    assert path.read_bytes() != before


def test_balanced_and_chosen_classes(run: Path, tmp_path: Path) -> None:
    assert labels(sample(run, tmp_path / "a", "--classes=balanced")) == list(range(9))
    assert labels(sample(run, tmp_path / "b", "--classes=3,1")) == [3, 1] * 4 + [3]


def test_official_seeding_continues_the_releases_stream(run: Path, tmp_path: Path) -> None:
    arguments = ["--seeding=official", "--per-proc-batch-size=2"]
    whole = sample(run, tmp_path / "whole", *arguments)
    assert labels(whole) != labels(sample(run, tmp_path / "own"))
    # One part lost, as if killed before it: its numbers come from the middle of the stream.
    out = tmp_path / "again"
    arguments += [f"--ckpt={run}", f"--sample-dir={out}", *OPTIONS]
    finish = "repa.sampling.archive.SampleArchive.finish"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, lambda archive: None)
        assert main(["sample", *arguments]) == 0
    [part] = out.with_name("again.partial").glob("*/00000004-00000006-1.npz")
    part.unlink()
    assert main(["sample", *arguments]) == 0
    assert out.with_name("again.npz").read_bytes() == whole.read_bytes()


def test_official_seeding_asks_for_the_same_layout(run: Path, tmp_path: Path, capsys) -> None:
    sample(run, tmp_path / "a", "--seeding=official", "--per-proc-batch-size=2")
    arguments = ["sample", f"--ckpt={run}", f"--sample-dir={tmp_path / 'a'}", *OPTIONS]
    assert main([*arguments, "--seeding=official", "--per-proc-batch-size=3"]) == 2
    assert "(different: layout)" in capsys.readouterr().err


def test_raw_and_averaged_weights_give_different_images(run: Path, tmp_path: Path) -> None:
    averaged, raw = sample(run, tmp_path / "a"), sample(run, tmp_path / "b", "--raw-weights")
    assert not np.array_equal(images(averaged), images(raw))


def test_a_class_that_the_model_lacks_is_refused(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["sample", f"--ckpt={run}", f"--sample-dir={out}", "--classes=0,99"]) == 2
    error = capsys.readouterr().err
    assert "--classes '99': expected random, balanced, a label from 0 to 8, one of " in error
    assert not list(tmp_path.iterdir())


def test_an_autoencoder_that_does_not_fit_is_refused(run, vae, tmp_path, capsys) -> None:
    arguments = ["sample", f"--ckpt={run}", f"--sample-dir={tmp_path / 'a'}", f"--vae={vae}"]
    assert main([*arguments, "--device=cpu"]) == 2
    assert "makes latents of (4, 4, 4); the model has (3, 32, 32)" in capsys.readouterr().err


def test_a_full_disk_is_said_so(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def full(path, data):
        if path.suffix == ".npz":
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr("repa.sampling.archive.write_atomically", full)
    assert main(["sample", f"--ckpt={run}", f"--sample-dir={tmp_path / 'a'}", *OPTIONS]) == 2
    assert "cannot write samples: [Errno 28] No space left" in capsys.readouterr().err


def test_bf16_is_close(run: Path, tmp_path: Path) -> None:
    plain = images(sample(run, tmp_path / "a"))
    bf16 = images(sample(run, tmp_path / "b", "--mixed-precision=bf16"))
    assert 0.02 < np.abs(plain.astype(int) - bf16).mean() < 2


def test_a_path_that_the_checkpoint_contradicts_is_refused(run, tmp_path, capsys) -> None:
    arguments = ["sample", f"--ckpt={run}", f"--sample-dir={tmp_path / 'a'}", *OPTIONS]
    assert main([*arguments, "--path-type=cosine"]) == 2
    assert "--path-type cosine: the checkpoint was trained with linear" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_broken_model_draws_nothing(run: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(find_checkpoint(run), folder)
    weights = load_file(folder / "ema.safetensors")
    weights["final_layer.linear.bias"][0] = float("nan")
    save_file(weights, folder / "ema.safetensors")
    write_checksums(folder)
    arguments = ["sample", f"--ckpt={folder}", f"--sample-dir={tmp_path / 'a'}", *OPTIONS]
    assert main(arguments) == 2
    assert "the model's samples are not finite" in capsys.readouterr().err
    assert not (tmp_path / "a.npz").exists()


def test_batches_queued_ahead_change_nothing(run: Path, tmp_path: Path, monkeypatch) -> None:
    at_once = sample(run, tmp_path / "a", "--per-proc-batch-size=2")
    monkeypatch.setattr("repa.sampling.command._batches_ahead", lambda device: 1)
    ahead = sample(run, tmp_path / "b", "--per-proc-batch-size=2")
    assert ahead.read_bytes() == at_once.read_bytes()


@pytest.mark.parametrize("ahead", [0, 1])
def test_only_batches_before_a_broken_one_are_kept(ahead, run, tmp_path, monkeypatch, capsys):
    drawn = []

    def break_third(*arguments):
        drawn.append(generate_latents(*arguments))
        return drawn[-1] * (float("inf") if len(drawn) == 3 else 1)

    monkeypatch.setattr("repa.sampling.command.generate_latents", break_third)
    monkeypatch.setattr("repa.sampling.command._batches_ahead", lambda device: ahead)
    arguments = [f"--ckpt={run}", f"--sample-dir={tmp_path / 'a'}", *OPTIONS]
    assert main(["sample", *arguments, "--per-proc-batch-size=2"]) == 2
    assert "the model's samples are not finite" in capsys.readouterr().err
    assert len(drawn) == 3 + ahead
    names = sorted(path.stem for path in (tmp_path / "a.partial").glob("*/*.npz"))
    assert names == ["00000000-00000002-1", "00000002-00000004-1"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--cfg-scale=inf", "--cfg-scale 'inf': input should be a finite number"),
        (
            "--seed=99999999999999999999999",
            "--seed '99999999999999999999999': input should be less",
        ),
        ("--sample-dir=.", "--sample-dir .: expected a name for the samples"),
    ],
)
def test_values_beyond_sense_are_refused(run, option: str, message: str, capsys) -> None:
    assert main(["sample", f"--ckpt={run}", *OPTIONS, option]) == 2
    assert message in capsys.readouterr().err


def test_heun_is_of_the_ode(run: Path, tmp_path: Path, capsys) -> None:
    sample(run, tmp_path / "a", "--heun")
    assert "note: --heun has no effect with --mode sde" in capsys.readouterr().err


def test_two_processes_refuse_with_one_line(run: Path, tmp_path: Path) -> None:
    sample(run, tmp_path / "a")
    command = [*TORCHRUN, "-m", "repa.cli", "sample", f"--ckpt={run}", "--seed=1"]
    command += [f"--sample-dir={tmp_path / 'a'}", *OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert done.stderr.count("holds other samples") == 1
    assert "Connection closed" not in done.stderr


def test_a_file_that_does_not_say_its_path_may_be_told(run: Path, tmp_path: Path) -> None:
    weights = load_file(find_checkpoint(run) / "ema.safetensors")
    bare = tmp_path / "bare.safetensors"
    save_file(weights, bare)
    paths = [sample(bare, tmp_path / kind, f"--path-type={kind}") for kind in ("linear", "cosine")]
    assert not np.array_equal(*map(images, paths))
    np.testing.assert_array_equal(images(paths[0]), images(sample(bare, tmp_path / "unsaid")))


def test_half_drawn_samples_of_earlier_versions_are_found(run: Path, tmp_path, monkeypatch) -> None:
    """Their folder is named by the request as it is written, so its order must stay."""
    monkeypatch.setattr("repa.sampling.archive.SampleArchive.finish", lambda archive: None)
    assert main(["sample", f"--ckpt={run}", f"--sample-dir={tmp_path / 'a'}", *OPTIONS]) == 0
    [path] = (tmp_path / "a.partial").glob("*/request.json")
    assert list(json.loads(path.read_text())["request"]) == [
        "model", "weights", "step", "path_type", "autoencoder", "images", "labels", "seed",
        "seeding", "mode", "num_steps", "heun", "cfg_scale", "guidance_low", "guidance_high",
        "precision", "tf32", "png",
    ]  # fmt: skip
