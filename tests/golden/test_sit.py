"""SiT, its loss and its samplers against the published implementation."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from golden.folder import Golden
from repa.alignment import cosine_alignment_loss, projection_heads
from repa.diffusion import FlowMatching, GuidedModel, Interpolant, sample_ode, sample_sde
from repa.models import SiT
from repa.models.released import split_released_state_dict

ALIGNMENT_ARGUMENTS = ("encoder_depth", "z_dims", "projector_dim")
GUIDANCE = {
    "plain": {},
    "cfg": {"cfg_scale": 1.8},
    "interval": {"cfg_scale": 1.8, "guidance_low": 0.2, "guidance_high": 0.7},
}
NUM_STEPS = 6
TOLERANCE = 2e-5


@torch.no_grad()
def test_sit(golden_dir: Path, sit_name: str) -> None:
    config = json.loads((golden_dir / "configs.json").read_text())[sit_name]
    alignment = {key: config.pop(key) for key in ALIGNMENT_ARGUMENTS}
    depth = alignment["encoder_depth"]
    model = SiT(**config).eval()
    heads = projection_heads(model.hidden_size, alignment["z_dims"], alignment["projector_dim"])
    released = load_file(golden_dir / f"{sit_name}.weights.safetensors")
    model_state, heads_state = split_released_state_dict(released)
    fixed_positions = model.pos_embed.clone()
    model.load_state_dict(model_state)
    heads.load_state_dict(heads_state)
    torch.testing.assert_close(model.pos_embed, fixed_positions, rtol=0, atol=1e-6)

    golden = Golden(golden_dir / f"{sit_name}.safetensors")
    prediction, hidden = model(golden["x"], golden["t"], golden["y"], capture=(depth,))
    golden.check("prediction", prediction, TOLERANCE)
    for i, head in enumerate(heads):
        golden.check(f"projected.{i}", head(hidden[depth]), TOLERANCE)

    check_losses(golden, model, heads, depth)
    check_samplers(golden, model)
    golden.assert_all_used()


def check_losses(golden: Golden, model: SiT, heads: torch.nn.ModuleList, depth: int) -> None:
    settings = {tuple(key.split(".")[1:3]) for key in golden.keys("loss.")}
    assert settings
    for path_type, weighting in settings:
        name = f"loss.{path_type}.{weighting}"
        t, noise = golden[f"{name}.t"], golden[f"{name}.noise"]
        assert ((t >= 0) & (t <= 1)).all()
        flow = FlowMatching(path_type)
        x_t = flow.add_noise(golden["x"], noise, t)
        prediction, hidden = model(x_t, t, golden["y"], capture=(depth,))
        losses = flow.losses(prediction, golden["x"], noise, t)
        golden.check(f"{name}.denoising", losses["denoising_loss"], TOLERANCE)
        alignment = [
            cosine_alignment_loss(head(hidden[depth]), golden[f"target.{i}"])
            for i, head in enumerate(heads)
        ]
        golden.check(f"{name}.alignment", torch.stack(alignment).mean(), TOLERANCE)


def check_samplers(golden: Golden, model: SiT) -> None:
    def field(guidance: str) -> GuidedModel:
        null = torch.full_like(golden["y"], model.null_class)
        return GuidedModel(model, golden["y"], null, **GUIDANCE[guidance])

    odes, sdes = list(golden.keys("ode.")), list(golden.keys("sde."))
    assert odes
    assert sdes
    for key in odes:
        _, _, method, guidance = key.split(".")
        x = sample_ode(field(guidance), golden["latents"], NUM_STEPS, heun=method == "heun")
        golden.check(key, x, TOLERANCE)
    noise = golden["sde.noise"]
    for key in sdes:
        if key != "sde.noise":
            _, path_type, guidance = key.split(".")
            x = sample_sde(
                field(guidance),
                golden["latents"],
                NUM_STEPS,
                Interpolant(path_type),
                lambda step: noise[step],
            )
            golden.check(key, x, TOLERANCE)


def test_legacy_names_are_later_blocks(golden_dir: Path, sit_name: str) -> None:
    depth = json.loads((golden_dir / "configs.json").read_text())[sit_name]["encoder_depth"]
    released = load_file(golden_dir / f"{sit_name}.weights.safetensors")

    def legacy_name(key: str) -> str:
        prefix, _, rest = key.partition(".")
        index, _, rest = rest.partition(".")
        if prefix == "blocks" and int(index) >= depth:
            return f"decoder_blocks.{int(index) - depth}.{rest}"
        return key

    legacy = {legacy_name(key): tensor for key, tensor in released.items()}
    assert legacy.keys() != released.keys()
    assert split_released_state_dict(legacy, depth)[0].keys() == (
        split_released_state_dict(released)[0].keys()
    )
    with pytest.raises(ValueError, match="encoder_depth"):
        split_released_state_dict(legacy)
