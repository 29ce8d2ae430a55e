"""Writing a checkpoint (`repa.checkpoints.folder`), complete or absent, and continuing from one."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from repa.checkpoints.folder import STATE, CheckpointState, load_into, read_tensors
from repa.data.format import write_atomically
from repa.errors import RepaError
from repa.training.module import TrainingModule


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
    for key, tensor in read_tensors(folder, "optimizer").items():
        name, _, entry = key.rpartition(".")
        if name not in names:
            raise RepaError(f"{folder}: the optimizer's {name!r} is not of this model")
        state.setdefault(names.index(name), {})[entry] = tensor
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
