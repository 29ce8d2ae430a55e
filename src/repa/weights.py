"""Weight files: found, read and loaded as data, never as code."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from repa.errors import RepaError, first_line


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors or a PyTorch file; no code in the file is run.

    Its tensors may lie in the file still (memory-mapped): copy those to keep.

    Raises:
        RepaError: if there is no such file, or it is broken or holds more than tensors.
    """
    if not path.is_file():
        raise RepaError(f"no weight file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_torchscript(path):
            raise RepaError(
                f"{path} is a TorchScript archive, which is code; if you trust it, make a state "
                'dict of it: python -c "import torch; torch.save(torch.jit.load('
                f"'{path.name}', 'cpu').state_dict(), 'clip_vitl.pth')\""
            )
        # Training scripts save their options with the weights: a namespace is no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Mapped, so that optimizer states in the file are never read (I-JEPA's are 8 GB).
            mapped = zipfile.is_zipfile(path)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except RepaError:
        raise
    except Exception as error:  # broken bytes raise almost anything
        raise RepaError(f"cannot read weights from {path}: {first_line(error)}") from None
    if not isinstance(state, dict):
        raise RepaError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def load_weights(
    network: torch.nn.Module, state: dict[str, Tensor], path: Path, assign: bool = False
) -> None:
    """Loads a state dict into a network, all of it.

    Args:
        network: what to load into.
        state: its weights.
        path: the file they came from, for messages.
        assign: the state's tensors become the network's, instead of being copied into them.

    Raises:
        RepaError: if a name or shape does not fit.
    """
    try:
        network.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise RepaError(f"{path} does not fit the network: {' '.join(lines[1:])[:300]}") from None
