"""A checkpoint's folder: its files, its state, and where a run keeps them.

    STEP/model.safetensors      the backbone
         ema.safetensors        its average
         heads.safetensors      projection heads; absent without alignment
         optimizer.safetensors  AdamW's moments, by parameter name
         state.json             step, architecture, autoencoder, options, loss scale, versions

No pickle is written or read. Random state needs no place here: see `repa.randomness`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from repa.data.format import AutoencoderRecord
from repa.errors import RepaError

STATE = "state.json"


class CheckpointState(BaseModel):
    """What `state.json` says."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    step: NonNegativeInt
    model: str
    model_arguments: dict[str, Any]
    autoencoder: AutoencoderRecord
    resolution: int
    classes: list[str]
    options: dict[str, Any]
    scaler: dict[str, Any] | None
    versions: dict[str, str]


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint that a path names: itself, or the newest one of a run's folder."""
    if (path / STATE).exists():
        return path
    return next(reversed(list_checkpoints(path)), None)


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints in a run's folder, oldest first."""
    found = [p.parent for p in (run / "checkpoints").glob(f"*/{STATE}") if p.parent.name.isdigit()]
    return sorted(found, key=lambda p: int(p.name))


def read_state(folder: Path) -> CheckpointState:
    """The checkpoint's `state.json`.

    Raises:
        RepaError: if it cannot be read or is not of this form.
    """
    try:
        return CheckpointState.model_validate_json((folder / STATE).read_bytes())
    except OSError as error:
        raise RepaError(f"damaged checkpoint {folder}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RepaError(f"damaged checkpoint {folder}: {STATE}: {where}: {first['msg']}") from None


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """One of a checkpoint's safetensors files, on the CPU.

    Raises:
        RepaError: if it is missing or broken.
    """
    path = folder / f"{name}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RepaError(f"damaged checkpoint: {path}: {error}") from None


def load_into(module: nn.Module, folder: Path, name: str) -> None:
    """Loads one of a checkpoint's files into a module.

    Raises:
        RepaError: if the file is missing, broken, or does not fit.
    """
    try:
        module.load_state_dict(read_tensors(folder, name))
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise RepaError(f"{folder / name}.safetensors does not fit: {detail}") from None
