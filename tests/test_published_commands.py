"""The release's README from training to images: its command lines on five images of its layout."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.preparing import write_released_layout
from repa.data.images import decode_image
from repa.data.sources import open_source

REPOSITORY = Path(__file__).parents[1]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--standalone"]
TRAIN = """--report-to=wandb --allow-tf32 --mixed-precision=fp16 --seed=0 --path-type=linear
    --prediction=v --weighting=uniform --model=SiT-Ti/2 --enc-type=efficientnet-lite0
    --proj-coeff=0.5 --encoder-depth=2 --exp-name=run --resolution=64 --max-train-steps=2
    --batch-size=4 --checkpointing-steps=2 --sampling-steps=1 --num-workers=1"""
GENERATE = """--model SiT-Ti/2 --num-fid-samples 16 --path-type=linear --encoder-depth=8
    --projector-embed-dims=768 --per-proc-batch-size=4 --mode=sde --num-steps=4 --cfg-scale=1.8
    --guidance-high=0.7"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = open_source("twemoji")
    pictures = []
    for index in range(5):
        buffer = io.BytesIO()
        picture = decode_image(source.read(index))
        picture.resize((64, 64)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    return write_released_layout(tmp_path_factory.mktemp("data") / "imagenet", pictures, 8)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_train_and_generate(layout: Path, vae: Path, tmp_path: Path) -> None:
    paths = [f"--data-dir={layout}", f"--output-dir={tmp_path}"]
    trained = run(*ACCELERATE, "train.py", *TRAIN.split(), *paths)
    # SD-VAE cannot be had here: said once, and training goes on.
    assert trained.stderr.count("warning: no previews: ") == 1
    assert not (tmp_path / "run" / "previews").exists()

    checkpoint = tmp_path / "run" / "checkpoints" / "0000002.pt"  # as the release would name it
    paths = [f"--ckpt={checkpoint}", f"--sample-dir={tmp_path / 'samples'}", f"--vae={vae}"]
    run(*TORCHRUN, "--nproc_per_node=2", "generate.py", *GENERATE.split(), *paths)
    name = f"SiT-Ti-2-0000002-size-64-vae-{vae.name}-cfg-1.8-seed-0-sde"
    with np.load(tmp_path / "samples" / f"{name}.npz") as archive:
        images = archive["arr_0"]
    assert (images.shape, images.dtype) == ((16, 64, 64, 3), np.uint8)
    assert len(list((tmp_path / "samples" / name).glob("*.png"))) == 16
    with Image.open(tmp_path / "samples" / name / "000015.png") as last:
        np.testing.assert_array_equal(np.asarray(last), images[15])


def test_without_a_network_the_released_checkpoint_is_named(tmp_path: Path) -> None:
    script = str(REPOSITORY / "generate.py")
    done = subprocess.run(
        [sys.executable, script, "--device=cpu"], cwd=tmp_path, capture_output=True, text=True,
        timeout=120, env={"https_proxy": "127.0.0.1:9", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("generate.py: error: cannot download last.pt (")
    assert error.endswith("put it at pretrained_models/last.pt")
