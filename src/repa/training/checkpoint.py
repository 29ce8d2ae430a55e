"""Checkpoints: a folder of safetensors and one JSON file, complete or absent.

    STEP/model.safetensors      the backbone
         ema.safetensors        its average
         heads.safetensors      projection heads; absent without alignment
         optimizer.safetensors  AdamW's moments, by parameter name
         state.json             step, architecture, autoencoder, options, loss scale, versions

No pickle is written or read. Random state needs no place here: see `repa.randomness`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repa.data.format import AutoencoderRecord, write_atomically
from repa.errors import RepaError
from repa.models import SiT, create_model
from repa.training.module import TrainingModule

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


def save_checkpoint(
    folder: Path,
    state: CheckpointState,
    module: TrainingModule,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Writes a checkpoint beside its place, then renames it: it is whole or not there."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {
        "model": module.model.state_dict(),
        "ema": ema.state_dict(),
        "heads": module.heads.state_dict(),
        "optimizer": _flatten(optimizer, _parameter_names(module)),
    }
    for name, state_dict in tensors.items():
        if state_dict:
            contiguous = {key: tensor.contiguous() for key, tensor in state_dict.items()}
            save_file(contiguous, partial / f"{name}.safetensors")
    write_atomically(partial / STATE, state.model_dump_json(indent=1).encode() + b"\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def restore(
    folder: Path, module: TrainingModule, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Loads weights, averages, heads and the optimizer's moments.

    Raises:
        RepaError: if a file is missing or broken, or does not fit.
    """
    load_into(module.model, folder, "model")
    load_into(ema, folder, "ema")
    if module.heads:
        load_into(module.heads, folder, "heads")
    names = _parameter_names(module)
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _read(folder, "optimizer").items():
        name, _, entry = key.rpartition(".")
        if name not in names:
            raise RepaError(f"{folder}: the optimizer's {name!r} is not of this model")
        state.setdefault(names.index(name), {})[entry] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


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


def load_model(path: Path, raw_weights: bool = False) -> tuple[SiT, CheckpointState]:
    """The backbone of a checkpoint, in evaluation mode on the CPU.

    Args:
        path: a run's folder or a checkpoint's.
        raw_weights: the trained weights instead of their average.

    Raises:
        RepaError: if there is no checkpoint or it is damaged.
    """
    folder = find_checkpoint(path)
    if folder is None:
        raise RepaError(f"no checkpoint in {path} (--ckpt takes a run's folder or a checkpoint)")
    state = read_state(folder)
    model = create_model(state.model, **state.model_arguments)
    load_into(model, folder, "model" if raw_weights else "ema")
    return model.eval(), state


def load_into(module: nn.Module, folder: Path, name: str) -> None:
    """Loads one of a checkpoint's files into a module.

    Raises:
        RepaError: if the file is missing, broken, or does not fit.
    """
    try:
        module.load_state_dict(_read(folder, name))
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise RepaError(f"{folder / name}.safetensors does not fit: {detail}") from None


def _parameter_names(module: nn.Module) -> list[str]:
    """In the order in which the optimizer counts them."""
    return [name for name, _ in module.named_parameters()]


def _flatten(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{names[index]}.{entry}": value
        for index, entries in state.items()
        for entry, value in entries.items()
    }


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    path = folder / f"{name}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RepaError(f"damaged checkpoint: {path}: {error}") from None
