"""MMDiT and its samplers against the published implementation."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from golden.folder import GOLDEN, Golden
from repa.alignment import projection_heads
from repa.diffusion import GuidedModel, Interpolant, sample_ode, sample_sde
from repa.models import MMDiT
from repa.models.released import split_released_state_dict

NAMES = [name for name in json.loads((GOLDEN / "configs.json").read_text()) if "mmdit" in name]
SCALE = 2.0
NUM_STEPS = 4
TOLERANCE = 2e-5


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_mmdit(golden_dir: Path, name: str) -> None:
    config = json.loads((golden_dir / "configs.json").read_text())[name]
    depth, dims, width = (config.pop(k) for k in ("encoder_depth", "z_dims", "projector_dim"))
    golden = Golden(golden_dir / f"{name}.safetensors")
    state, heads_state = split_released_state_dict(
        load_file(golden_dir / f"{name}.weights.safetensors")
    )
    model = MMDiT(**config).eval()
    torch.testing.assert_close(model.pos_embed, state["pos_embed"], rtol=0, atol=1e-6)
    model.load_state_dict(state | {"null_context": golden["null_context"][0]})
    heads = projection_heads(model.hidden_size, dims, width)
    heads.load_state_dict(heads_state)

    x, context = golden["x"], golden["context"]
    prediction, hidden = model(x, golden["t"], context, capture=(depth,))
    golden.check("prediction", prediction, TOLERANCE)
    for i, head in enumerate(heads):
        golden.check(f"projected.{i}", head(hidden[depth]), TOLERANCE)

    guided = GuidedModel(model, context, model.null_condition(len(context)), SCALE)
    latents, noise = golden["latents"], golden["sde.noise"]
    samples = [key for key in golden.keys("") if re.fullmatch(r"(ode|sde)\..*cfg", key)]
    assert {key[:3] for key in samples} == {"ode", "sde"}
    for key in samples:
        mode, path_type, *method = key.split(".")
        if mode == "ode":
            drawn = sample_ode(guided, latents, NUM_STEPS, heun=method[0] == "heun")
        else:
            path = Interpolant(path_type)
            drawn = sample_sde(guided, latents, NUM_STEPS, path, lambda step: noise[step])
        golden.check(key, drawn, TOLERANCE)
    golden.assert_all_used()
