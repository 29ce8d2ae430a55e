from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repa.autoencoders import Pixels
from repa.config import SamplerOptions
from repa.diffusion import DDPM, FlowMatching, GuidedModel
from repa.errors import RepaError
from repa.models import DiT, MMDiT, SiT
from repa.sampling import generate_images, generate_latents, save_grid
from repa.sampling.conditions import of_labels
from repa.sampling.generate import cast_weights, pick_mode
from repa.sampling.noise import ImageNoise


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
    conditions = of_labels(labels)
    every = range(count)
    batches = generate_images(
        model(), Pixels(), conditions, every, sampler, seed, FlowMatching(), batch_size
    )
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
    labels = of_labels(np.zeros(3, int))
    list(generate_images(net, Pixels(), labels, range(3), sampler, 0, FlowMatching(), 3))
    assert (rows.count(3), rows.count(6), len(rows)) == (singles, doubles, singles + doubles)


def test_some_of_the_images_are_the_same_as_among_all() -> None:
    whole = sample(7, 7)
    sampler = SamplerOptions(num_steps=4)
    labels, few = of_labels(np.arange(7) % 4), range(1, 7, 2)
    batches = generate_images(model(), Pixels(), labels, few, sampler, 0, FlowMatching(), 2)
    some = torch.cat(list(batches))
    assert (some.int() - whole[1::2].int()).abs().max() <= 1


def test_sit_is_guided_in_all_channels_and_dit_in_the_first_three() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([1, 2])
    for family, objective in ((SiT, FlowMatching()), (DiT, DDPM())):
        net = family(input_size=8, hidden_size=32, depth=2, num_heads=2, num_classes=4).eval()
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        for every in (False, True):
            sampler = SamplerOptions(num_steps=3, cfg_scale=2.0, guide_all_channels=every)
            drawn = generate_latents(net, labels, noise(), sampler, objective)
            channels = None if family is SiT else 4 if every else 3
            null = torch.full_like(labels, 4)
            predict = GuidedModel(net, labels, null, 2.0, guided_channels=channels)
            with torch.no_grad():
                expected = objective.sample(
                    predict, noise().initial(), noise().step, objective.modes[0], 3
                )
            torch.testing.assert_close(drawn, expected)


def noise() -> ImageNoise:
    return ImageNoise(0, range(2), (4, 8, 8))


def test_precision_is_that_of_the_models_evaluations() -> None:
    net, labels, sampler = model(), torch.tensor([1, 2]), SamplerOptions(num_steps=2)
    drawn = {
        precision: generate_latents(
            net, labels, ImageNoise(0, range(2), (3, 8, 8)), sampler, FlowMatching(), precision
        )
        for precision in ("no", "bf16")
    }
    assert 0 < (drawn["no"] - drawn["bf16"]).abs().max() < 0.1


def test_all_of_a_processes_steps_may_be_taken_and_no_more() -> None:
    assert pick_mode(DDPM(), SamplerOptions(num_steps=1000)) == "ddim"
    assert pick_mode(FlowMatching(), SamplerOptions(num_steps=2000)) == "ode"
    with pytest.raises(RepaError, match="--num-steps 1001: the model's process has 1000"):
        pick_mode(DDPM(), SamplerOptions(num_steps=1001))


@pytest.mark.parametrize("family", [SiT, DiT, MMDiT])
@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_weights_cast_once_draw_the_same(family, precision) -> None:
    torch.manual_seed(0)
    takes = {"context_dim": 6} if family is MMDiT else {"num_classes": 4}
    net = family(input_size=8, hidden_size=32, depth=2, num_heads=2, **takes).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    condition = torch.randn(2, 77, 6) if family is MMDiT else torch.tensor([1, 2])
    objective = DDPM() if family is DiT else FlowMatching()
    sampler = SamplerOptions(num_steps=3, cfg_scale=2.0)
    drawn = []
    for _ in range(2):
        drawn.append(generate_latents(net, condition, noise(), sampler, objective, precision))
        cast_weights(net, precision)
    assert torch.equal(*drawn)
    expected = {"bf16": torch.bfloat16, "no": torch.float32}[precision]
    assert net.final_layer.linear.weight.dtype == expected
    assert net.pos_embed.dtype == torch.float32
