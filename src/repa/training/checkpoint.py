"""Writing a checkpoint (`repa.checkpoints.folder`), complete or absent, and continuing from one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from repa.checkpoints.folder import (
    CheckpointState,
    folder_parts,
    load_into,
    read_tensors,
    write_folder,
)
from repa.errors import RepaError
from repa.training.module import TrainingModule
from repa.training.sharding import cut_like, gather


def save_checkpoint(
    folder: Path,
    state: CheckpointState,
    module: TrainingModule,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    writes: bool = True,
) -> None:
    """Writes a checkpoint beside its place, then renames it: it is whole or not there.

    All processes call this, for each may have a part of the tensors, and one of them writes.
    """
    parts: dict[str, dict[str, Tensor]] = {
        "model": module.model.state_dict(),
        "ema": ema.state_dict(),
        "heads": module.heads.state_dict(),
        "optimizer": _flatten(optimizer, _parameter_names(module)),
    }
    keep = torch.device("cpu") if writes else None
    whole = {part: gather(tensors, keep) for part, tensors in parts.items()}
    if writes:
        write_folder(folder, state, whole)


def restore(
    folder: Path, module: TrainingModule, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Loads weights, averages, heads and the optimizer's moments.

    Raises:
        RepaError: if a file is missing or broken, or does not fit.
    """
    needed = ("model", "ema", "optimizer")
    lacking = [part for part in needed if part not in folder_parts(folder)]
    if lacking:
        raise RepaError(
            f"{folder} cannot be continued from: it has no {', no '.join(lacking)}.safetensors"
        )
    load_into(module.model, folder, "model")
    load_into(ema, folder, "ema")
    if module.heads:
        load_into(module.heads, folder, "heads")
    names = _parameter_names(module)
    parameters = list(module.parameters())
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(folder, "optimizer").items():
        name, _, entry = key.rpartition(".")
        if name not in names:
            raise RepaError(f"{folder}: the optimizer's {name!r} is not of this model")
        index = names.index(name)
        state.setdefault(index, {})[entry] = cut_like(tensor, parameters[index])
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


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
