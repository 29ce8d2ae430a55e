"""A checkpoint's folder: its files, its state, and where a run keeps them.

    STEP/model.safetensors      the backbone
         ema.safetensors        its average
         heads.safetensors      projection heads; absent without alignment
         optimizer.safetensors  AdamW's moments, by parameter name
         state.json             step, architecture, autoencoder, options, loss scale, versions,
                                and what the log had gathered
         SHA256SUMS             checksums of all these, as `sha256sum --check` reads them

Training writes all of these. What was converted from another format (`repa.checkpoints.released`)
lacks what that did not hold, and may have two more:

         ema_heads.safetensors  the heads' average, which the release keeps
         released.json          what its file said that has no place above

No pickle is written or read. Random state needs no place here: see `repa.randomness`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repa.checkpoints.checksums import CHECKSUMS, check_file, check_folder, write_checksums
from repa.checkpoints.state import RELEASED, STATE, CheckpointState, ReleasedRecord, read_state
from repa.data.arrays import check_regular
from repa.errors import RepaError
from repa.files import make_durable, sync, write_atomically
from repa.weights import misfits

PARTIAL = ".partial"  # ending of a folder that is being written
PARTS = ("model", "ema", "heads", "ema_heads", "optimizer")
Parts = Mapping[str, Mapping[str, Tensor]]


class LazyParts(Mapping[str, Mapping[str, Tensor]]):
    """A checkpoint's tensors by part, read or checked when one is asked for (`__getitem__`).

    Args:
        parts: what there is of each part, tensors or where they come from.
    """

    def __init__(self, parts: Mapping[str, Any]):
        self._parts = parts

    def __contains__(self, part: object) -> bool:  # the inherited one asks for it
        return part in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class FolderParts(LazyParts):
    """The tensors in a checkpoint's folder by part, each file read when it is asked for.

    Args:
        folder: the checkpoint.
        files: {part: name of its file}, for those that may be there.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]):
        paths = {part: folder / file for part, file in files.items()}
        super().__init__({part: path for part, path in paths.items() if path.exists()})

    def __getitem__(self, part: str) -> dict[str, Tensor]:
        check_file(self._parts[part])
        return _read_file(self._parts[part])


def folder_parts(folder: Path) -> FolderParts:
    """What a checkpoint's folder holds."""
    return FolderParts(folder, {part: f"{part}.safetensors" for part in PARTS})


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint that a path names: itself, or the newest one of a run's folder."""
    if (path / STATE).exists():
        return path
    return next(reversed(list_checkpoints(path)), None)


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints in a run's folder, oldest first; also those that have lost files."""
    found = {
        p.parent for name in (STATE, CHECKSUMS) for p in (run / "checkpoints").glob(f"*/{name}")
    }
    return sorted((p for p in found if p.name.isdigit()), key=lambda p: int(p.name))


def check_checkpoint(folder: Path) -> None:
    """Whether a checkpoint's files are all there and what was written.

    Raises:
        RepaError: if one is missing, broken or changed.
    """
    check_folder(folder)
    read_state(folder)
    for path in folder.glob("*.safetensors"):
        try:
            check_regular(path)
            with safe_open(path, "pt"):  # reads the header, and compares sizes with it
                pass
        except (OSError, SafetensorError) as error:
            raise RepaError(f"damaged checkpoint: {path}: {error}") from None


def write_folder(
    folder: Path, state: CheckpointState, parts: Parts, released: ReleasedRecord | None = None
) -> None:
    """Writes a checkpoint beside its place, then renames it: it is whole or not there.

    Only for a run's own folder: what is there by its name is replaced.

    Raises:
        OSError, SafetensorError: if it cannot be written; nothing of it is left.
    """
    # A name that none but this function gives: what is there was left by a killed process.
    partial = folder.with_name(f".{folder.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        fill_folder(partial, state, parts, released)
        make_durable(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def fill_folder(
    folder: Path, state: CheckpointState, parts: Parts, released: ReleasedRecord | None = None
) -> None:
    """Makes a checkpoint's folder, file by file."""
    folder.mkdir(parents=True)
    for part, tensors in parts.items():
        if tensors:
            write_tensors(folder / f"{part}.safetensors", tensors)
    if released is not None:
        write_atomically(folder / RELEASED, released.model_dump_json(indent=1).encode() + b"\n")
    write_state(folder, state)
    write_checksums(folder)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes one safetensors file."""
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)


def write_state(folder: Path, state: CheckpointState) -> None:
    """Writes `state.json`, after the tensors, and gives them its permissions.

    safetensors makes its files private, but others in a group may use a checkpoint.
    """
    write_atomically(folder / STATE, state.model_dump_json(indent=1).encode() + b"\n")
    for path in folder.glob("*.safetensors"):
        shutil.copymode(folder / STATE, path)


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """One of a checkpoint's safetensors files, on the CPU.

    Raises:
        RepaError: if it is missing or broken.
    """
    return _read_file(folder / f"{name}.safetensors")


def load_into(module: nn.Module, folder: Path, name: str) -> None:
    """Loads one of a checkpoint's files into a module.

    Raises:
        RepaError: if the file is missing, broken, or does not fit.
    """
    try:
        module.load_state_dict(read_tensors(folder, name))
    except RuntimeError as error:
        raise RepaError(f"{folder / name}.safetensors does not fit: {misfits(error)}") from None


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        check_regular(path)
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RepaError(f"damaged checkpoint: {path}: {error}") from None
