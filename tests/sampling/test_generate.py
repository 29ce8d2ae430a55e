from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repa.autoencoders import Pixels
from repa.config import SamplerOptions
from repa.diffusion import FlowMatching
from repa.models import SiT
from repa.sampling import generate_images, save_grid


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
    batches = generate_images(model(), Pixels(), labels, sampler, seed, FlowMatching(), batch_size)
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


@pytest.mark.parametrize(
    ("options", "singles", "doubles"),
    [
        ({"mode": "ode"}, 10, 0),
        ({"mode": "ode", "heun": True}, 19, 0),  # the last step is Euler's
        ({"mode": "sde"}, 10, 0),
        ({"mode": "ode", "cfg_scale": 2.0}, 0, 10),
        # Steps begin at t = 1, 0.9, ..., 0.1: those from 0.7 to 0.3 are guided.
        ({"mode": "ode", "cfg_scale": 2.0, "guidance_low": 0.25, "guidance_high": 0.75}, 5, 5),
        ({"mode": "ode", "heun": True, "cfg_scale": 2.0, "guidance_high": 0.55}, 10, 9),
        # ... and here at 1, 0.893, ..., 0.04.
        ({"mode": "sde", "cfg_scale": 2.0, "guidance_high": 0.7}, 3, 7),
    ],
)
def test_the_model_runs_as_often_as_it_must(options, singles: int, doubles: int) -> None:
    net, rows = model(), []
    net.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    sampler = SamplerOptions(**({"num_steps": 10} | options))
    list(generate_images(net, Pixels(), np.zeros(3, int), sampler, 0, FlowMatching(), 3))
    assert (rows.count(3), rows.count(6), len(rows)) == (singles, doubles, singles + doubles)


def test_some_of_the_images_are_the_same_as_among_all() -> None:
    whole = sample(7, 7)
    sampler = SamplerOptions(num_steps=4)
    arguments = (model(), Pixels(), np.arange(7) % 4, sampler, 0, FlowMatching(), 2)
    some = torch.cat(list(generate_images(*arguments, indices=range(1, 7, 2))))
    assert (some.int() - whole[1::2].int()).abs().max() <= 1
