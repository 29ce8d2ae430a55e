"""Small encoders with random weights, and their weights in the form of the published files."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from repa.encoders import vit
from repa.encoders.vit import VITS

State = dict[str, Tensor]

# Side in pixels of the images that the published positions are for.
FILE_SIZE = {"dinov2": 518, "dinov2reg": 518, "siglip2": 256, "dinov3": 256}
SLIPS = {
    "blocks.13.norm1": "blocks.13.norm13",
    "blocks.13.mlp.fc1": "blocks.13.mlp.fc13",
    "blocks.14.norm2": "blocks.14.norm14",
    "blocks.14.mlp.fc2": "blocks.14.mlp.fc14",
}
OPENAI = {
    "patch_embed.proj": "conv1",
    "norm_pre": "ln_pre",
    "blocks": "transformer.resblocks",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.qkv.": "attn.in_proj_",
    "attn.proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "norm.": "ln_post.",
    "pos_embed": "positional_embedding",
    "cls_token": "class_embedding",
}


def shrink(monkeypatch: pytest.MonkeyPatch, *names: str, **arguments: Any) -> None:
    """Makes the networks of these encoders small; MoCo's deep enough for its slips."""
    for name in names:
        depth = 15 if name == "mocov3-vit-l" else 2
        small = {"depth": depth, "embed_dim": 48, "num_heads": 3}
        row = VITS[name]
        small |= row.arguments | arguments
        monkeypatch.setitem(VITS, name, replace(row, arguments=small))


def make_network(name: str, input_size: int) -> Any:
    """timm's network for an encoder, every weight random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        row = VITS[name]
        network = timm.create_model(
            row.network, img_size=input_size, num_classes=0, **row.arguments
        ).eval()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, 0.5 * (parameter.ndim == 1), 0.3)
    return network


def timm_state(name: str) -> State:
    """The encoder's weights in timm's naming, with positions for the published size."""
    family = name.split("-")[0]
    return make_network(name, FILE_SIZE.get(family, 224)).state_dict()


def published_state(name: str, state: State) -> Any:
    """Contents of the published file; the names below are those of the publishers' code."""
    return PUBLISHED[name.split("-")[0]](dict(state))


def save_published(name: str, state: State, folder: Path) -> Path:
    file = folder / VITS[name].files[0]
    contents = published_state(name, state)
    if file.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in contents.items()}, file)
    else:
        torch.save(contents, file)
    return file


def _dinov1(state: State) -> Any:
    return state


def _dinov2(state: State) -> Any:
    state["mask_token"] = torch.randn(1, 48)
    if "blocks.0.mlp.fc1.weight" in state and _is_gated(state):
        state = _renamed(state, {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"})
    return state


def _is_gated(state: State) -> bool:
    return state["blocks.0.mlp.fc1.weight"].shape[0] != state["blocks.0.mlp.fc2.weight"].shape[1]


def _dinov2reg(state: State) -> Any:
    """The class token has a position there, which timm has added to the token."""
    position = torch.randn(1, 1, 48)
    state["cls_token"] = state["cls_token"] - position
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    state["register_tokens"] = state.pop("reg_token")
    return _dinov2(state)


def _dinov3(state: State) -> Any:
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    state = _renamed(state, names)
    for key in [key for key in state if key.endswith("q_bias")]:
        block = key.removesuffix("q_bias")
        # The bias of the keys is masked, so it can be anything.
        query, value = state.pop(key), state.pop(block + "v_bias")
        state[block + "qkv.bias"] = torch.cat([query, torch.randn_like(query), value])
        state[block + "qkv.bias_mask"] = torch.tensor([1.0, 0, 1]).repeat_interleave(len(query))
    return state | {"mask_token": torch.randn(1, 48), "rope_embed.periods": torch.ones(4)}


def _mocov3(state: State) -> Any:
    state = _renamed(state, SLIPS)
    state |= {"head.0.weight": torch.ones(5, 48), "head.1.running_mean": torch.ones(5)}
    both = {f"module.base_encoder.{key}": value for key, value in state.items()}
    both |= {f"module.momentum_encoder.{key}": -value for key, value in state.items()}
    both["module.predictor.0.weight"] = torch.ones(3, 5)
    return {"arch": "vit", "epoch": 300, "state_dict": both, "optimizer": {"state": {0: {}}}}


def _clip(state: State) -> Any:
    state = _renamed(state, OPENAI)
    state["class_embedding"] = state["class_embedding"].flatten()
    state["positional_embedding"] = state["positional_embedding"][0]
    state["proj"] = torch.randn(48, 7)
    whole = {f"visual.{key}": value for key, value in state.items()}
    return whole | {
        "positional_embedding": torch.ones(77, 8),
        "transformer.resblocks.0.ln_1.weight": torch.ones(8),
        "token_embedding.weight": torch.ones(9, 8),
        "text_projection": torch.ones(8, 7),
        "logit_scale": torch.tensor(4.6),
        "input_resolution": torch.tensor(224),
    }


def _jepa(state: State) -> Any:
    encoder = {f"module.{key}": value for key, value in state.items()}
    target = {key: -value for key, value in encoder.items()}
    return {"encoder": encoder, "target_encoder": target, "predictor": {}, "epoch": 300, "lr": 1e-3}


def _mae(state: State) -> Any:
    state |= {"mask_token": torch.ones(1, 1, 9), "decoder_pos_embed": torch.ones(1, 197, 9)}
    state["decoder_blocks.0.norm1.weight"] = torch.ones(9)
    return {"model": state, "args": argparse.Namespace(model="mae_vit_large", lr=1e-3)}


def _siglip2(state: State) -> Any:
    return state | {"attn_pool.latent": torch.ones(1, 1, 48), "attn_pool.q.weight": torch.ones(48)}


PUBLISHED = {
    "dinov1": _dinov1,
    "dinov2": _dinov2,
    "dinov2reg": _dinov2reg,
    "dinov3": _dinov3,
    "mocov3": _mocov3,
    "clip": _clip,
    "jepa": _jepa,
    "mae": _mae,
    "siglip2": _siglip2,
}


def _renamed(state: State, names: dict[str, str]) -> State:
    def rename(key: str) -> str:
        for old, new in names.items():
            key = key.replace(old, new)
        return key

    return {rename(key): value for key, value in state.items()}


def images(resolution: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, resolution, resolution)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def no_download(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Downloads fail; returns the list of those tried."""
    create_model, tried = timm.create_model, []

    def offline(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            tried.append(name)
            raise ConnectionError("Cannot reach the hub\nTraceback:\n...")
        return create_model(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(vit, "snapshot_download", lambda *_, **__: None)
    return tried
