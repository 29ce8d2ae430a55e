"""Weight files of vision transformers as published, in timm's naming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repa.errors import RepaError

State = dict[str, Tensor]

# Under which key files keep the weights: MoCo v3, MAE, I-JEPA, training states of DINO.
WRAPPERS = ("state_dict", "model", "encoder", "teacher")

# Slips in the published MoCo v3 ViT-L.
SLIPS = {
    "blocks.13.norm13.": "blocks.13.norm1.",
    "blocks.13.mlp.fc13.": "blocks.13.mlp.fc1.",
    "blocks.14.norm14.": "blocks.14.norm2.",
    "blocks.14.mlp.fc14.": "blocks.14.mlp.fc2.",
}


def to_timm(
    state: dict[str, Any],
    network: Any,
    timm_filter: Callable[[State, Any], State],
    part: str,
    extra: tuple[str, ...],
    file: Path,
) -> State:
    """What a file holds as timm's network takes it; copied to memory, in float32.

    Args:
        state: contents of the file.
        network: timm's network, whose grid the positions are resampled to.
        timm_filter: timm's own translation for this kind of network.
        part: prefix of the encoder in a file that holds more; the rest is left out.
        extra: beginnings of further names to leave out.
        file: its name, for messages.

    Raises:
        RepaError: if the file does not have the form of such weights. Names that are missing or too
            many are for loading to find.
    """
    for wrapper in WRAPPERS:
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise RepaError(
                f"{file} does not fit the network: {name} is a {type(value).__name__}, not a tensor"
            )
    state = _without_prefix(state, "module.", part)
    state = {name: value for name, value in state.items() if not name.startswith(extra)}
    _check_patches(state, network, file)
    state = {_without_slip(name): _copy(value) for name, value in state.items()}
    if "class_embedding" in state:  # timm knows OpenAI's naming by its prefix
        state = {f"visual.{name}": value for name, value in state.items()}
    try:
        return timm_filter(state, network)
    except Exception as error:  # it takes the form of the file for granted
        reason = " ".join(str(error).split())[:300]
        raise RepaError(
            f"{file} does not fit the network: {type(error).__name__}: {reason}"
        ) from None


def _without_prefix(state: State, wrapping: str, part: str) -> State:
    """Takes off a prefix that all names have; then keeps one part of the file, if it has that."""
    if all(name.startswith(wrapping) for name in state):
        state = {name.removeprefix(wrapping): value for name, value in state.items()}
    if part and any(name.startswith(part) for name in state):
        state = {n.removeprefix(part): v for n, v in state.items() if n.startswith(part)}
    return state


def _check_patches(state: State, network: Any, file: Path) -> None:
    """Patches of another size are another encoder, but timm would resample them."""
    expected = network.patch_embed.proj.weight.shape
    for name in ("patch_embed.proj.weight", "conv1.weight"):
        if name in state and state[name].shape != expected:
            raise RepaError(
                f"{file} does not fit the network: {name} is {tuple(state[name].shape)}, expected "
                f"{tuple(expected)}"
            )


def _without_slip(name: str) -> str:
    for slip, correct in SLIPS.items():
        name = name.replace(slip, correct)
    return name


def _copy(value: Tensor) -> Tensor:
    """In float32, as positions in half precision would be resampled coarsely."""
    return value.to(torch.float32, copy=True)
