"""The published generate.py command line."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repa.checkpoints import CheckpointState, find_checkpoint, load_model, read_state
from repa.commandline import parse_options
from repa.commandline import run as run_command
from repa.config import GenerateOptions
from repa.data.format import AutoencoderRecord
from repa.sampling.published import note_obsolete, run_generate, samples_name

REPOSITORY = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--standalone"]
BLOCK = (  # of the release's README
    "--model SiT-XL/2 --num-fid-samples 50000 --ckpt YOUR_CHECKPOINT_PATH --path-type=linear "
    "--encoder-depth=8 --projector-embed-dims=768 --per-proc-batch-size=64 --mode=sde "
    "--num-steps=250 --cfg-scale=1.8 --guidance-high=0.7"
)


def options(line: str) -> GenerateOptions:
    return parse_options(GenerateOptions, line.split(), "generate.py")


def state(**changes) -> CheckpointState:
    values = {
        "step": 0,
        "model": "SiT-XL/2",
        "model_arguments": {},
        "autoencoder": AutoencoderRecord(name="sd-vae-ft-mse", latent_shape=(4, 32, 32)),
        "resolution": 256,
        "classes": [],
        "options": {},
        "scaler": None,
        "versions": {},
    }
    return CheckpointState.model_validate(values | changes)


def generate(line: str) -> int:
    return run_command("generate.py", lambda: run_generate(options(line)))


def test_the_published_command_line_is_understood(capsys) -> None:
    parsed = options(BLOCK)
    assert parsed.num_fid_samples == 50_000
    assert (parsed.mode, parsed.num_steps, parsed.cfg_scale) == ("sde", 250, 1.8)
    assert (parsed.guidance_low, parsed.guidance_high) == (0, 0.7)
    note_obsolete(parsed)
    assert capsys.readouterr().err == (
        "note: --projector-embed-dims has no effect: projection heads are for training only\n"
    )


def test_the_published_defaults_hold() -> None:
    parsed = options("")
    assert (parsed.ckpt, parsed.sample_dir, parsed.seed) == (None, Path("samples"), 0)
    assert (parsed.num_fid_samples, parsed.per_proc_batch_size) == (50_000, 32)
    assert (parsed.mode or "ode", parsed.num_steps, parsed.heun) == ("ode", 50, False)
    assert (parsed.cfg_scale, parsed.guidance_low, parsed.guidance_high) == (1.5, 0, 1)
    assert (parsed.allow_tf32, parsed.png, parsed.mixed_precision) == (True, True, "no")
    other = options("--global-seed 3 --no-tf32 --legacy --no-fused-attn --no-qk-norm --no-heun")
    assert (other.seed, other.allow_tf32, other.fused_attn) == (3, False, False)


@pytest.mark.parametrize(
    ("line", "changes", "expected"),
    [
        ("--vae ema", {}, "SiT-XL-2-SiT-XL-2-256x256-size-256-vae-ema-cfg-1.5-seed-0-ode"),
        (
            "--ckpt exps/a/checkpoints/0400000.pt --mode sde --cfg-scale 1 --global-seed 2 "
            "--vae mse",
            {"model": "SiT-B/4", "resolution": 512},
            "SiT-B-4-0400000-size-512-vae-mse-cfg-1.0-seed-2-sde",
        ),
        ("--vae some/vae", {}, "SiT-XL-2-SiT-XL-2-256x256-size-256-vae-vae-cfg-1.5-seed-0-ode"),
    ],
)
def test_samples_are_named_as_the_release_names_them(line, changes, expected) -> None:
    parsed = options(line)
    assert samples_name(parsed, state(**changes), parsed.mode or "ode") == expected


def test_two_processes_write_sixteen_images(run: Path, tmp_path: Path) -> None:
    ckpt = find_checkpoint(run)
    # The published line names a .pt file; ours is the folder of that name.
    arguments = f"--model SiT-Ti/8 --num-fid-samples 16 --ckpt {ckpt}.pt --path-type=linear "
    arguments += "--encoder-depth=8 --projector-embed-dims=768 --per-proc-batch-size=3 --mode=sde "
    arguments += f"--num-steps=3 --cfg-scale=1.8 --guidance-high=0.7 --sample-dir={tmp_path}"
    command = [*TORCHRUN, "--nproc_per_node=2", "generate.py", *arguments.split()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: --projector-embed-dims has no effect") == 1
    name = "SiT-Ti-8-0000006-size-32-vae-pixel-cfg-1.8-seed-0-sde"
    assert len(list((tmp_path / name).glob("0000[01][0-9].png"))) == 16
    with np.load(tmp_path / f"{name}.npz") as archive:
        assert archive["arr_0"].shape == (16, 32, 32, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--resolution 256", "--resolution 256: .* has 32"),
        ("--num-classes 1000", "--num-classes 1000: .* has 9"),
        ("--model SiT-XL/2", "SiT-XL/2"),
    ],
)
def test_what_the_checkpoint_is_not_is_refused(run, tmp_path, line, message, capsys) -> None:
    assert generate(f"--ckpt {run} --sample-dir {tmp_path / 'a'} {line}") == 2
    error = capsys.readouterr().err
    assert error.startswith("generate.py: error: ")
    assert re.search(message, error)
    assert not list(tmp_path.iterdir())


def test_latents_are_decoded_by_the_published_vae_unless_told(run, monkeypatch, tmp_path) -> None:
    asked = []

    def decoder(name: str, device):
        asked.append(name)
        raise KeyboardInterrupt

    monkeypatch.setattr("repa.sampling.command.create_autoencoder", decoder)
    sd_vae = AutoencoderRecord(name="sd-vae-ft-mse", latent_shape=(4, 4, 4))
    found = read_state(find_checkpoint(run) or run)
    for record, line, expected in (
        (sd_vae, "", "sd-vae-ft-ema"),
        (sd_vae, "--vae mse", "sd-vae-ft-mse"),
        (sd_vae, "--vae some/folder", "some/folder"),
        (found.autoencoder, "", "pixel"),
    ):
        changed = found.model_copy(update={"autoencoder": record})
        monkeypatch.setattr(
            "repa.sampling.command.load_model",
            lambda *arguments, state=changed: (load_model(*arguments)[0], state),
        )
        assert generate(f"--ckpt {run} --sample-dir {tmp_path} {line}") == 130
        assert asked.pop() == expected


def test_a_model_of_texts_is_led_to_repa_sample(drawer: Path, tmp_path: Path, capsys) -> None:
    assert generate(f"--ckpt={drawer} --sample-dir={tmp_path} --device=cpu") == 2
    message = f"{drawer} is a MMDiT-Ti/8, which draws texts: `repa sample --prompt`"
    assert message in capsys.readouterr().err
