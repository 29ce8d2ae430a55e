"""Whether a checkpoint's tensors are those of the backbone that its state names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from repa.checkpoints.folder import LazyParts, Parts
from repa.checkpoints.state import CheckpointState
from repa.errors import RepaError, first_line
from repa.models import Backbone, create_model

SHOWN = 2  # of the tensors that do not fit
Shapes = dict[str, torch.Size]


def build_model(state: CheckpointState, path: Path, device: str = "cpu") -> Backbone:
    """The backbone with random weights; on the device "meta", with none.

    Raises:
        RepaError: if the state's arguments make no model.
    """
    try:
        with torch.device(device):
            return create_model(state.model, **state.model_arguments)
    # Arguments of any type and size come from a file.
    except (ArithmeticError, RuntimeError, TypeError, ValueError, RepaError) as error:
        raise RepaError(f"damaged checkpoint {path}: no model: {first_line(error)}") from None


def check_size(state: CheckpointState, weights: Mapping[str, Tensor], path: Path) -> None:
    """Whether the model that a state names has about as many numbers as there are in the weights.

    Before it is built: a `state.json` of a few bytes can ask for a model of terabytes.

    Raises:
        RepaError: if it has more than twice as many.
    """
    wanted = sum(t.numel() for t in build_model(state, path, "meta").state_dict().values())
    found = sum(tensor.numel() for tensor in weights.values())
    if wanted > 2 * found:
        raise RepaError(
            f"damaged checkpoint {path}: its weights hold {found} numbers, the model that its "
            f"state names {wanted}"
        )


def is_plain(tensor: Tensor) -> bool:
    """Whether it has its values in memory, one for each place: not sparse, not on "meta"."""
    return tensor.layout == torch.strided and not tensor.is_meta


class FittingParts(LazyParts):
    """A checkpoint's parts, each compared with its backbone when it is read, for what writes them.

    Heads may be of any form, as no one but training reads them.

    Args:
        state: of the checkpoint.
        parts: of the checkpoint.
        path: where it lies, for messages.

    Raises:
        RepaError: if it has no weights at all; on reading a part, if a tensor is missing, unknown
            or of another shape or kind.
    """

    def __init__(self, state: CheckpointState, parts: Parts, path: Path):
        super().__init__(parts)
        self._path, self._name = path, state.model
        if "model" not in parts and ("ema" not in parts or "optimizer" in parts):
            what = "an optimizer without its weights" if "optimizer" in parts else "no weights"
            raise RepaError(f"damaged checkpoint: {path} has {what}")
        tensors = build_model(state, path, "meta").state_dict()
        self._shapes = {name: tensor.shape for name, tensor in tensors.items()}

    def __getitem__(self, part: str) -> Mapping[str, Tensor]:
        tensors = self._parts[part]
        problems = [f"{name} is sparse or has no values" for name, t in tensors.items()
                    if not is_plain(t)]  # fmt: skip
        if part in ("model", "ema"):
            problems += _misfits(tensors, self._shapes)
        elif part == "optimizer":
            problems += self._optimizer_misfits(tensors)
        if problems:
            shown = "; ".join(problems[:SHOWN])
            more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            raise RepaError(f"{self._path} does not fit {self._name}: in {part}, {shown}{more}")
        return tensors

    def _optimizer_misfits(self, tensors: Mapping[str, Tensor]) -> list[str]:
        shapes = {f"model.{name}": shape for name, shape in self._shapes.items()}
        heads = self._parts.get("heads", {})
        shapes |= {f"heads.{name}": tensor.shape for name, tensor in heads.items()}
        problems = []
        for key, tensor in tensors.items():
            shape = shapes.get(key.rpartition(".")[0])
            if shape is None:
                problems.append(f"{key} is of no weight")
            elif tensor.ndim and tensor.shape != shape:  # the step is one number
                problems.append(f"{key} is {_sizes(tensor.shape)}, not {_sizes(shape)}")
        return problems


def _misfits(tensors: Mapping[str, Tensor], shapes: Shapes) -> list[str]:
    problems = [f"{name} is missing" for name in shapes if name not in tensors]
    for name, tensor in tensors.items():
        if name not in shapes:
            problems.append(f"{name} is unknown")
        elif tensor.shape != shapes[name]:
            problems.append(f"{name} is {_sizes(tensor.shape)}, not {_sizes(shapes[name])}")
        elif not tensor.is_floating_point():
            problems.append(f"{name} is of {tensor.dtype}, not of floating-point numbers")
    return problems


def _sizes(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"
