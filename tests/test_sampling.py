from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repa.autoencoders import Pixels
from repa.cli import main
from repa.config import SamplerOptions, TrainOptions
from repa.diffusion import Interpolant
from repa.models import SiT
from repa.sampling import generate_images, save_grid
from repa.training import train


def model() -> SiT:
    torch.manual_seed(0)
    net = SiT(input_size=8, in_channels=3, hidden_size=32, depth=2, num_heads=2, num_classes=4)
    for parameter in net.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def sample(count: int, batch_size: int, seed: int = 0, **options) -> torch.Tensor:
    labels = np.arange(count) % 4
    sampler = SamplerOptions(**({"num_steps": 4} | options))
    batches = generate_images(model(), Pixels(), labels, sampler, seed, Interpolant(), batch_size)
    return torch.cat(list(batches))


@pytest.mark.parametrize("mode", ["ode", "sde"])
def test_images_do_not_depend_on_the_batch(mode: str) -> None:
    whole = sample(7, 7, mode=mode).int()
    parts = sample(7, 3, mode=mode).int()
    assert whole.shape == (7, 3, 8, 8)
    assert (whole - parts).abs().max() <= 1  # rounding
    assert not torch.equal(whole, sample(7, 7, seed=1, mode=mode))


def test_guidance_changes_images_and_its_interval_matters() -> None:
    plain, guided = sample(4, 4), sample(4, 4, cfg_scale=3.0)
    interval = sample(4, 4, cfg_scale=3.0, guidance_high=0.6)
    assert len({tensor.numpy().tobytes() for tensor in (plain, guided, interval)}) == 3


def test_heun_and_sde_are_other_samplers() -> None:
    kinds = [sample(4, 4), sample(4, 4, heun=True), sample(4, 4, mode="sde")]
    assert len({tensor.numpy().tobytes() for tensor in kinds}) == 3


def test_a_grid_shows_every_image_in_its_place(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    save_grid(images, tmp_path / "grid.png", columns=3)
    with Image.open(tmp_path / "grid.png") as grid:
        pixels = np.asarray(grid)
    assert pixels.shape == (9, 14, 3)
    np.testing.assert_array_equal(pixels[5:9, 5:9], images[4].permute(1, 2, 0).numpy())
    assert (pixels[4] == 255).all()
    assert (pixels[5:, 10:] == 255).all()


@pytest.fixture(scope="module")
def run(emoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(
        TrainOptions(
            exp_name="run",
            output_dir=tmp_path_factory.mktemp("runs"),
            data_dir=emoji_dir,
            model="SiT-Ti/8",
            enc_type="none",
            max_train_steps=2,
            batch_size=4,
            report_to="none",
            device="cpu",
        )
    )


def test_command_writes_png_files_and_an_archive(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--num-fid-samples", "5", "--num-steps", "3", "--per-proc-batch-size", "2"]
    arguments += ["--cfg-scale", "1.5", "--guidance-high", "0.7", "--device", "cpu"]
    assert main(["sample", "--ckpt", str(run), "--sample-dir", str(out), *arguments]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == [f"{i:06d}.png" for i in range(5)]
    with np.load(tmp_path / "out.npz") as archive:
        array = archive["arr_0"]
    assert array.shape == (5, 32, 32, 3)
    assert array.dtype == np.uint8
    with Image.open(out / "000003.png") as image:
        np.testing.assert_array_equal(np.asarray(image), array[3])


def test_raw_and_averaged_weights_give_different_images(run: Path, tmp_path: Path) -> None:
    archives = []
    for name, flags in (("ema", []), ("raw", ["--raw-weights"])):
        arguments = ["--num-fid-samples=2", "--num-steps=2", "--classes=0,3", "--device=cpu"]
        folder = tmp_path / name
        assert main(["sample", f"--ckpt={run}", f"--sample-dir={folder}", *arguments, *flags]) == 0
        with np.load(tmp_path / f"{name}.npz") as archive:
            archives.append(archive["arr_0"])
    assert not np.array_equal(*archives)


@pytest.mark.parametrize("classes", ["0,99", "-1", "cat", ""])
def test_a_class_that_the_model_lacks_is_refused(run, tmp_path, classes, capsys) -> None:
    out = tmp_path / "out"
    assert main(["sample", f"--ckpt={run}", f"--sample-dir={out}", f"--classes={classes}"]) == 2
    assert f"--classes {classes!r}: random, or labels from 0 to 8" in capsys.readouterr().err
    assert not out.exists()
