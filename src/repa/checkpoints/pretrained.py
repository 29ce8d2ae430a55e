"""A folder that `from_pretrained` loads, ready to be published.

config.json         the constructor's arguments
model.safetensors   the averaged weights
heads.safetensors, ema_heads.safetensors    projection heads, where there are any
state.json          as in a checkpoint's folder
README.md           the model card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repa.checkpoints.architecture import TextArchitecture, infer_architecture
from repa.checkpoints.card import model_card
from repa.checkpoints.families import size_of
from repa.checkpoints.folder import FolderParts, Parts, write_state, write_tensors
from repa.checkpoints.foreign import infer_state
from repa.checkpoints.state import STATE, CheckpointState, read_state
from repa.data.arrays import check_regular
from repa.errors import RepaError
from repa.models import Backbone

CONFIG = "config.json"
README = "README.md"
FILES = {
    "ema": "model.safetensors",
    "heads": "heads.safetensors",
    "ema_heads": "ema_heads.safetensors",
}


def is_pretrained(folder: Path) -> bool:
    """Whether this is such a folder."""
    return (folder / CONFIG).is_file()


def pretrained_parts(folder: Path) -> FolderParts:
    """What the folder holds, by the names that our checkpoints have for it."""
    return FolderParts(folder, FILES)


def pretrained_state(folder: Path) -> CheckpointState:
    """Its state; where `save_pretrained` alone wrote it, from its weights and configuration.

    Raises:
        RepaError: if a file is broken or missing, or the model is none of the named ones.
    """
    if (folder / STATE).exists():
        return read_state(folder)
    config = read_config(folder)
    parts = pretrained_parts(folder)
    if "ema" not in parts:
        raise RepaError(f"damaged checkpoint: {folder} has no {FILES['ema']}")
    architecture = infer_architecture(parts["ema"], folder)
    family = "DiT" if "learn_sigma" in config else "SiT"
    if isinstance(architecture, TextArchitecture):
        family = "MMDiT"
    name = architecture.name(family, folder)
    if family == "MMDiT":
        heads = config.get("num_heads") or architecture.depth
        if heads != size_of(name)[2]:
            raise RepaError(f"{folder}: {name} has {size_of(name)[2]} heads, not {heads}")
    state = infer_state(architecture, name, {}, 0, folder)
    known = {key: config[key] for key in state.model_arguments if key in config}
    return state.model_copy(update={"model_arguments": state.model_arguments | known})


def write_pretrained(folder: Path, model: Backbone, state: CheckpointState, parts: Parts) -> None:
    """Writes such a folder.

    Args:
        folder: where to; it exists and is empty.
        model: the backbone with its averaged weights.
        state: of the checkpoint.
        parts: of the checkpoint; only the heads are taken from it.
    """
    # Before the weights: huggingface_hub writes a card of its own where there is none.
    (folder / README).write_text(model_card(state), encoding="utf-8")
    model.save_pretrained(folder)
    for part in ("heads", "ema_heads"):
        if part in parts:
            write_tensors(folder / FILES[part], parts[part])
    write_state(folder, state)


def read_config(folder: Path) -> Mapping[str, Any]:
    """What `config.json` says.

    Raises:
        RepaError: if it is missing or broken.
    """
    try:
        check_regular(folder / CONFIG)
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RepaError(f"damaged checkpoint: {folder / CONFIG}: {error}") from None
    if not isinstance(config, dict):
        raise RepaError(f"damaged checkpoint: {folder / CONFIG} holds no options")
    return config
