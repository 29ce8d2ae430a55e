"""Tokens of every published encoder, made small, from its file; tests/golden has real sizes."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from encoders.published import (
    images,
    make_network,
    published_state,
    save_published,
    shrink,
    timm_state,
)
from repa.encoders import create_encoder
from repa.encoders.vit import VITS

# As METHOD.md says: input side at 256 px, width; 512 px has twice the side.
SIZES = {
    "dinov1-vit-b": (256, 768),
    "dinov2-vit-s": (224, 384),
    "dinov2-vit-b": (224, 768),
    "dinov2-vit-l": (224, 1024),
    "dinov2-vit-g": (224, 1536),
    "dinov2reg-vit-s": (224, 384),
    "dinov2reg-vit-b": (224, 768),
    "dinov2reg-vit-l": (224, 1024),
    "dinov2reg-vit-g": (224, 1536),
    "dinov3-vit-s": (256, 384),
    "dinov3-vit-b": (256, 768),
    "dinov3-vit-l": (256, 1024),
    "mocov3-vit-s": (256, 384),
    "mocov3-vit-b": (256, 768),
    "mocov3-vit-l": (256, 1024),
    "clip-vit-L": (224, 1024),
    "jepa-vit-h": (224, 1280),
    "mae-vit-l": (256, 1024),
    "siglip2-vit-b": (256, 768),
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NO_FINAL_NORM = ("clip", "mae")
CLASS_TOKEN_HAS_POSITION = ("dinov1", "dinov2-", "mocov3", "clip", "mae")
ONE_OF_EACH = [
    "dinov1-vit-b",
    "dinov2-vit-s",
    "dinov2-vit-g",
    "dinov2reg-vit-s",
    "dinov3-vit-s",
    "mocov3-vit-s",
    "clip-vit-L",
    "jepa-vit-h",
    "mae-vit-l",
    "siglip2-vit-b",
]


def preprocess(name: str, x: Tensor, size: int) -> Tensor:
    family = name.split("-")[0]
    mean, std = {"clip": CLIP, "siglip2": HALF}.get(family, IMAGENET)
    mean_, std_ = (torch.tensor(values)[:, None, None] for values in (mean, std))
    x = x / 255.0
    if family == "clip":
        return (F.interpolate(x, size, mode="bicubic") - mean_) / std_
    x = (x - mean_) / std_
    return x if x.shape[-1] == size else F.interpolate(x, size, mode="bicubic")


@torch.no_grad()
def expected_tokens(name: str, state: dict[str, Tensor], x: Tensor, size: int) -> Tensor:
    """timm's own tokens from weights in its own naming."""
    network = make_network(name, size)
    if "pos_embed" in state:  # DINOv3 has rotary ones
        positions = resample_abs_pos_embed(
            state["pos_embed"],
            network.patch_embed.grid_size,
            num_prefix_tokens=int(name.startswith(CLASS_TOKEN_HAS_POSITION)),
        )
        state = state | {"pos_embed": positions}
    network.load_state_dict(state)
    [tokens] = network.forward_intermediates(
        preprocess(name, x, size),
        indices=1,
        norm=not name.startswith(NO_FINAL_NORM),
        output_fmt="NLC",
        intermediates_only=True,
    )
    return tokens


def test_these_are_the_published_encoders() -> None:
    assert VITS.keys() == SIZES.keys()


@pytest.mark.parametrize("resolution", [256, 512])
@pytest.mark.parametrize("name", SIZES)
def test_tokens_are_timms_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, resolution: int
) -> None:
    shrink(monkeypatch, name)
    state = timm_state(name)
    save_published(name, state, tmp_path)
    encoder = create_encoder(name, resolution, weights=tmp_path)
    size = SIZES[name][0] * resolution // 256
    assert (encoder.input_size, encoder.grid_size) == (size, resolution // 16)
    x = images(resolution)
    tokens = encoder(x)
    assert tokens.shape == (2, (resolution // 16) ** 2, 48)
    assert tokens.dtype == torch.float32
    expected = expected_tokens(name, state, x, size)
    assert expected.std() > 0.1
    torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_hidden_states_lie_in_order_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    shrink(monkeypatch, name)
    save_published(name, timm_state(name), tmp_path)
    encoder = create_encoder(name, 256, weights=tmp_path)
    states: list[Tensor] = []
    for block in encoder.network.blocks:
        block.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    encoder(images(256))
    assert states
    assert all(state.is_contiguous() for state in states)


@pytest.mark.parametrize("name", SIZES)
def test_the_table_agrees_with_timm(name: str) -> None:
    row = VITS[name]
    with init_empty_weights():
        network: Any = timm.create_model(
            row.network, img_size=SIZES[name][0], num_classes=0, **row.arguments
        )
    assert row.dim == network.num_features == SIZES[name][1]
    assert network.patch_embed.patch_size == (row.patch, row.patch)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == row.millions
    heads = network.blocks[0].attn.num_heads
    assert heads == 12 if name == "mocov3-vit-s" else row.dim // heads in (64, 80)
    if row.hosted:
        config = timm.get_pretrained_cfg(row.network, allow_unregistered=False)
        assert (config.mean, config.std) == (row.mean, row.std)
        assert config.url or config.hf_hub_id


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("grid_size", [None, 4])
def test_small_images_and_another_grid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, grid_size: int | None
) -> None:
    shrink(monkeypatch, name)
    save_published(name, timm_state(name), tmp_path)
    encoder = create_encoder(name, 32, grid_size, tmp_path)
    assert encoder.input_size == SIZES[name][0]
    assert encoder(images(32)).shape == (2, (grid_size or 16) ** 2, 48)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_it_is_frozen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    shrink(monkeypatch, name, proj_drop_rate=0.5)
    save_published(name, timm_state(name), tmp_path)
    encoder = create_encoder(name, 32, weights=tmp_path)
    around = torch.nn.ModuleList([encoder]).train()
    assert around.training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert all(value.device.type == "cpu" for value in encoder.state_dict().values())
    tokens = encoder(images(32))
    assert not tokens.requires_grad
    torch.testing.assert_close(encoder(images(32)), tokens, rtol=0, atol=0)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    shrink(monkeypatch, name)
    save_published(name, timm_state(name), tmp_path)
    encoder, x = create_encoder(name, 32, weights=tmp_path), images(32)
    exact = encoder(x)
    with torch.autocast("cpu", dtype):
        mixed = encoder(x)
    whole = encoder.to(dtype)(x)
    assert whole.dtype == dtype
    for tokens in (mixed, whole):
        assert tokens.isfinite().all()
        assert F.cosine_similarity(tokens.float(), exact, dim=-1).mean() > 0.99


def test_halved_and_full_files_differ_only_by_rounding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OpenAI's weights are in half precision; the encoder is not."""
    shrink(monkeypatch, "clip-vit-L")
    state = {key: value.half().float() for key, value in timm_state("clip-vit-L").items()}
    published = published_state("clip-vit-L", state)
    tokens = []
    for halved in (False, True):
        contents = {k: v.half() if halved else v for k, v in published.items()}
        torch.save(contents, tmp_path / "clip_vitl.pth")
        encoder = create_encoder("clip-vit-L", 512, weights=tmp_path)
        assert {p.dtype for p in encoder.parameters()} == {torch.float32}
        tokens.append(encoder(images(512, 1)))
    torch.testing.assert_close(*tokens, rtol=0, atol=0)


def test_fingerprints_tell_weights_and_not_resolutions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "dinov2-vit-s"
    shrink(monkeypatch, name)
    state = timm_state(name)
    save_published(name, state, tmp_path)
    prints = [create_encoder(name, size, weights=tmp_path).fingerprint for size in (256, 512, 256)]
    assert len(set(prints)) == 1
    state["blocks.1.mlp.fc2.bias"][0] += 1e-3
    save_published(name, state, tmp_path)
    assert create_encoder(name, 256, weights=tmp_path).fingerprint != prints[0]
