"""Weight files: found, read and loaded as data, never as code."""

from __future__ import annotations

import argparse
import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from repa.errors import RepaError, first_line


def read_weights(path: Path) -> dict[str, Any]:
    """A state dict from a .safetensors or a PyTorch file; no code in the file is run.

    A training script's file is returned as it is: state dicts, options and numbers by name. Tensors
    may lie in the file still (memory-mapped): copy those to keep.

    Raises:
        RepaError: if there is no such file, or it is broken or holds more than data.
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
        raise RepaError(f"cannot read weights from {path}: {_reason(path, error)}") from None
    if not isinstance(state, dict):
        raise RepaError(f"{path} holds a {type(state).__name__}, not a state dict")
    return state


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _reason(path: Path, error: Exception) -> str:
    """Why a file was not read: what it holds besides data, or what is broken about it."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        what = f"it holds {found[1]}, not only tensors and plain values"
    elif "Unsupported operand" in str(error) and _starts_as_plain_pickle(path):
        what = "it is a plain pickle, not a file of torch.save"
    else:
        return first_line(error)
    return (
        f"{what}; such a file can run code when it is loaded, so it was not. If you trust its "
        'source, keep its weights alone: python -c "import torch; '
        f"f = torch.load('{path.name}', 'cpu', weights_only=False); "
        "torch.save(f.get('ema', f), 'weights.pt')\""
    )


def _starts_as_plain_pickle(path: Path) -> bool:
    """Whether it has the header of pickle's protocols 4 and 5; torch.save writes protocol 2."""
    with path.open("rb") as file:
        return file.read(2) in (b"\x80\x04", b"\x80\x05")


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


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """16 hex digits that tell these tensors from others: the start of a SHA-256 over them."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
