"""DiT, its loss and its samplers against the published implementation."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden.folder import GOLDEN, Golden
from repa.diffusion import DDPM, GuidedModel, sample_ddim, sample_ddpm
from repa.models import DiT
from repa.sampling.generate import RELEASED_GUIDED_CHANNELS

NAMES = [name for name in json.loads((GOLDEN / "configs.json").read_text()) if "mmdit" not in name]
TOLERANCE = 2e-5


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("dit")])
@torch.no_grad()
def test_dit(golden_dir: Path, name: str) -> None:
    config = json.loads((golden_dir / "configs.json").read_text())[name]
    model = DiT(**config).eval()
    fixed_positions = model.pos_embed.clone()
    model.load_state_dict(load_file(golden_dir / f"{name}.weights.safetensors"))
    torch.testing.assert_close(model.pos_embed, fixed_positions, rtol=0, atol=1e-6)

    golden = Golden(golden_dir / f"{name}.safetensors")
    assert not golden["t"].is_floating_point() or golden["t"].max() > 1, "times are steps"
    prediction = model(golden["x"], golden["t"], golden["y"])
    assert prediction.shape[1] == 2 * config["in_channels"]
    golden.check("prediction", prediction, TOLERANCE)

    check_losses(golden, model)
    check_samplers(golden, model)
    golden.assert_all_used()


def check_losses(golden: Golden, model: DiT) -> None:
    ddpm = DDPM()
    x, noise, t = golden["x"], golden["noise"], golden["t"]
    x_t = ddpm.add_noise(x, noise, t)
    golden.check("x_t", x_t, TOLERANCE)
    losses = ddpm.losses(model(x_t, t, golden["y"]), x, noise, t)
    golden.check("loss.mse", losses["mse_loss"], TOLERANCE)
    golden.check("loss.vb", losses["vb_loss"], TOLERANCE)
    golden.check("loss.loss", losses["denoising_loss"], TOLERANCE)


def check_samplers(golden: Golden, model: DiT) -> None:
    """Keys are as `ddpm20.cfg1.5` or `ddim20.plain`: method, steps, guidance."""
    keys = [key for key in golden.keys("dd") if not key.endswith(".seed")]
    assert {key[:4] for key in keys} == {"ddpm", "ddim"}
    latents, y = golden["latents"], golden["y"]
    for key in keys:
        method, steps, guidance = re.fullmatch(r"(ddpm|ddim)(\d+)\.(?:plain|cfg(.+))", key).groups()
        schedule = DDPM().schedule.respaced(int(steps))
        predict = GuidedModel(model, y)
        rows = len(latents)
        if guidance:
            null = torch.full_like(y, model.null_class)
            scale = float(guidance)
            predict = GuidedModel(model, y, null, scale, guided_channels=RELEASED_GUIDED_CHANNELS)
            rows *= 2  # the published code draws for the unconditional half too

        def draw(step: int, rows: int = rows) -> Tensor:
            return torch.randn(rows, *latents.shape[1:])[: len(latents)]

        if method == "ddim":
            x = sample_ddim(predict, latents, schedule)
        else:
            torch.manual_seed(int(golden[f"{key}.seed"]))
            x = sample_ddpm(predict, latents, schedule, draw)
        golden.check(key, x, TOLERANCE)
