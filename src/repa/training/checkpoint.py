"""Writing a checkpoint (`repa.checkpoints.folder`), complete or absent, and continuing from one."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from repa.checkpoints.folder import (
    Parts,
    folder_parts,
    load_into,
    read_tensors,
    write_folder,
)
from repa.checkpoints.state import CheckpointState, Progress
from repa.config import TrainOptions
from repa.errors import RepaError, first_line
from repa.files import sync
from repa.processes import on_main
from repa.training.ema import EMA
from repa.training.module import TrainingModule
from repa.training.rotation import remove_old
from repa.training.sharding import cut_like, gather


class Checkpoints:
    """Writes a run's checkpoints, and removes those that are not to be kept.

    Args:
        run: the run's folder.
        options: of the run.
        state: what its checkpoints say, but for the step and what changes with it.
        accelerator: the first of its processes writes.
        module, ema, optimizer: what is saved.
    """

    def __init__(
        self,
        run: Path,
        options: TrainOptions,
        state: CheckpointState,
        accelerator: Accelerator,
        module: TrainingModule,
        ema: EMA,
        optimizer: torch.optim.Optimizer,
    ):
        self.run = run
        self.options = options
        self.state = state
        self.accelerator = accelerator
        self.module, self.ema, self.optimizer = module, ema, optimizer

    def save(self, step: int, progress: Progress) -> None:
        """Writes the checkpoint of a step; all processes call it together.

        Raises:
            RepaError: if it cannot be written; those before it are as they were.
        """
        scaler = self.accelerator.scaler
        now = {
            "step": step,
            "scaler": scaler.state_dict() if scaler else None,
            "progress": progress,
        }
        state = self.state.model_copy(update=now)
        keep = self.accelerator.is_main_process
        parts = checkpoint_parts(self.module, self.ema.model, self.optimizer, keep)
        on_main(PartialState(), lambda: self._write(state, parts))

    def _write(self, state: CheckpointState, parts: Parts) -> None:
        folder = self.run / "checkpoints" / f"{state.step:07d}"
        try:
            for log in self.run.glob("*.jsonl"):
                sync(log)  # what a checkpoint goes on from lasts as long as it does
            write_folder(folder, state, parts)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise RepaError(
                f"the checkpoint {folder} cannot be written: {reason}. Those before it are whole: "
                "make room (--keep-last removes old ones), and the same command goes on from the "
                "newest"
            ) from None
        try:
            remove_old(self.run, self.options.keep_last, self.options.keep_every)
        except OSError as error:  # as of one that somebody reads from a network drive
            place = error.filename or folder.parent
            tqdm.write(f"warning: {place} cannot be removed: {error.strerror}", file=sys.stderr)


def checkpoint_parts(
    module: TrainingModule, ema: nn.Module, optimizer: torch.optim.Optimizer, keep: bool = True
) -> Parts:
    """All tensors of a checkpoint, in one piece each.

    All processes call this, for each may have a part of the tensors; those that do not keep them
    get none.
    """
    parts: dict[str, dict[str, Tensor]] = {
        "model": module.model.state_dict(),
        "ema": ema.state_dict(),
        "heads": module.heads.state_dict(),
        "optimizer": _flatten(optimizer, _parameter_names(module)),
    }
    device = torch.device("cpu") if keep else None
    return {part: gather(tensors, device) for part, tensors in parts.items()}


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
