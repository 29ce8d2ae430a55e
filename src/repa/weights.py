"""Weight files: found, read and loaded as data, never as code."""

from __future__ import annotations

import argparse
import hashlib
import re
import textwrap
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from repa.errors import RepaError, first_line

PLAIN_PICKLES = (b"\x80\x04", b"\x80\x05")  # protocols 4 and 5; torch.save writes protocol 2
PYTORCH_FILES = (b"PK", b"\x80\x02", *PLAIN_PICKLES)  # of today and before 1.6
MAX_LISTS = 200_000  # in a file, counted as often as they are named; an optimizer has thousands
SMALL = 1 << 30  # bytes of a tensor that are no harm, in the file or not
MAX_DEPTH = 100  # of lists in lists
CONTAINERS = (Tensor, Mapping, argparse.Namespace, list, tuple, set)


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
                f"'{path.name}', 'cpu').state_dict(), 'weights.pth')\""
            )
        # Training scripts save their options with the weights: a namespace is no code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's doubts come before our one line
            # Mapped, so that optimizer states in the file are never read (I-JEPA's are 8 GB).
            mapped = zipfile.is_zipfile(path)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            _check_content(state, path)
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


def _check_content(state: Any, path: Path) -> None:
    """Whether what was read is as large as it looks, before anyone goes through it.

    A few bytes can stand for endless lists, which hold each other or themselves, and for tensors of
    terabytes, which name one number again and again.

    Raises:
        RepaError: if it is not.
    """
    size = max(path.stat().st_size, SMALL)
    count = 0
    left = [(state, 0)]
    while left:
        value, depth = left.pop()
        if isinstance(value, Tensor):
            if not value.is_meta and value.numel() * value.element_size() > size:
                raise RepaError(
                    f"{path} is damaged: a tensor of {tuple(value.shape)} does not fit into its "
                    f"{path.stat().st_size} bytes"
                )
            continue
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if isinstance(value, Mapping):
            value = value.values()
        elif not isinstance(value, (list, tuple, set)):
            continue
        count += 1
        if count > MAX_LISTS or depth == MAX_DEPTH:
            raise RepaError(f"{path} is damaged: its lists hold each other, or are far too many")
        left += [(inner, depth + 1) for inner in value if isinstance(inner, CONTAINERS)]


def _reason(path: Path, error: Exception) -> str:
    """Why a file was not read: what it holds besides data, or what is broken about it."""
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        return "it is empty"
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        what = f"it holds {found[1]}, not only tensors and plain values"
    elif "Unsupported operand" in str(error) and start in PLAIN_PICKLES:
        what = "it is a plain pickle, not a file of torch.save"
    elif path.suffix != ".safetensors" and start not in PYTORCH_FILES:
        return "it is no PyTorch or safetensors file"
    elif "weights_only" in str(error):  # PyTorch's advice is to run what the file holds
        return "it is broken, or holds more than tensors and plain values"
    else:
        return f"it is broken: {first_line(error)}"
    return (
        f"{what}; such a file can run code when it is loaded, so it was not. If you trust its "
        'source, keep its weights alone: python -c "import torch; '
        f"f = torch.load('{path.name}', 'cpu', weights_only=False); "
        "torch.save(f.get('ema', f), 'weights.pt')\""
    )


def check_bytes(path: Path, tensors: Iterable[Tensor]) -> None:
    """Compares tensors with the checksums in the PyTorch file that they were read from.

    Mapped bytes come past PyTorch's own check. Only the tensors that are asked about are read.
    Files without checksums pass: .safetensors, PyTorch's form before 1.6, and
    `set_crc32_options(False)`, which writes 0.

    Args:
        path: the file.
        tensors: as `read_weights` returned them.

    Raises:
        RepaError: if bytes of one have changed.
    """
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        known = {(record.file_size, record.CRC) for record in archive.infolist()}
    # By content, as a tensor does not say which record it lies in.
    storages = {s.data_ptr(): s for s in (tensor.untyped_storage() for tensor in tensors)}
    for storage in storages.values():
        size = storage.nbytes()
        data = torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data
        if size and (size, 0) not in known and (size, zlib.crc32(data)) not in known:
            raise RepaError(
                f"{path} is damaged: bytes of its tensors are not those that were saved; copy or "
                "download it again"
            )


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
        raise RepaError(f"{path} does not fit the network: {misfits(error)}") from None


def misfits(error: RuntimeError) -> str:
    """What `load_state_dict` found, in a line of 300 characters, cut between words."""
    found = " ".join(str(error).splitlines()[1:])
    return textwrap.shorten(found, 300, placeholder=" ...")


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """16 hex digits that tell these tensors from others: the start of a SHA-256 over them."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def network_fingerprint(network: torch.nn.Module) -> str:
    """The fingerprint of a frozen network's weights.

    Position embeddings are left out: resampling rounds them differently between machines.
    """
    weights = network.state_dict()
    return fingerprint({name: value for name, value in weights.items() if name != "pos_embed"})
