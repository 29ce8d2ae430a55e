"""Finding and reading encoder weights, as data."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from repa.errors import RepaError, first_line


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors or a PyTorch file; no code in the file is run.

    Raises:
        RepaError: if there is no such file, or it is broken or holds more than tensors.
    """
    if not path.is_file():
        raise RepaError(f"no weight file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes raise almost anything
        raise RepaError(f"cannot read weights from {path}: {first_line(error)}") from None
    if not isinstance(state, dict):
        raise RepaError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state


def load_weights(network: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Loads a state dict into a network, all of it.

    Raises:
        RepaError: if a name or shape does not fit.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise RepaError(f"{path} does not fit the network: {' '.join(lines[1:])[:300]}") from None
