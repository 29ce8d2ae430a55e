"""A checkpoint's folder: its files, its state, and where a run keeps them.

    STEP/model.safetensors      the backbone
         ema.safetensors        its average
         heads.safetensors      projection heads; absent without alignment
         optimizer.safetensors  AdamW's moments, by parameter name
         state.json             step, architecture, autoencoder, options, loss scale, versions

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
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repa.data.format import AutoencoderRecord, TextRecord
from repa.diffusion.interpolant import PathType, Prediction
from repa.errors import RepaError
from repa.files import write_atomically
from repa.weights import misfits

STATE = "state.json"
RELEASED = "released.json"
PARTS = ("model", "ema", "heads", "ema_heads", "optimizer")
Parts = Mapping[str, Mapping[str, Tensor]]


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
    text: TextRecord | None = None
    scaler: dict[str, Any] | None
    versions: dict[str, str]

    @field_validator("options")
    @classmethod
    def _name_a_known_process(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Now, not only in the sampler. None is the choice of those who do not choose."""
        for name, known in (
            ("path_type", get_args(PathType)),
            ("prediction", get_args(Prediction)),
        ):
            if name in options and options[name] is None:
                options = options | {name: known[0]}
            if options.get(name, known[0]) not in known:
                choices = " or ".join(known)
                raise ValueError(f"{name} is {options[name]!r}, expected {choices}")
        return options


class ReleasedRecord(BaseModel):
    """What `released.json` says: enough to write the file again as it was.

    Attributes:
        bare: it was a state dict alone, as the published checkpoint.
        args: the options it was trained with.
        param_groups: of its optimizer.
    """

    model_config = ConfigDict(extra="forbid")

    bare: bool = False
    args: dict[str, Any] | None = None
    param_groups: list[dict[str, Any]] | None = None


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
    """The checkpoints in a run's folder, oldest first."""
    found = [p.parent for p in (run / "checkpoints").glob(f"*/{STATE}") if p.parent.name.isdigit()]
    return sorted(found, key=lambda p: int(p.name))


def read_state(folder: Path) -> CheckpointState:
    """The checkpoint's `state.json`.

    Raises:
        RepaError: if it cannot be read or is not of this form.
    """
    return parse_state(_read_text(folder, STATE), f"{folder}: {STATE}")


def parse_state(text: str | bytes, where: str) -> CheckpointState:
    """A state from JSON.

    Raises:
        RepaError: if it is not of this form.
    """
    return _parse(CheckpointState, text, where)


def read_released_record(folder: Path) -> ReleasedRecord | None:
    """The checkpoint's `released.json`, if it has one.

    Raises:
        RepaError: if it cannot be read or is not of this form.
    """
    if not (folder / RELEASED).exists():
        return None
    return _parse(ReleasedRecord, _read_text(folder, RELEASED), f"{folder}: {RELEASED}")


def write_folder(
    folder: Path, state: CheckpointState, parts: Parts, released: ReleasedRecord | None = None
) -> None:
    """Writes a checkpoint beside its place, then renames it: it is whole or not there.

    Only for a run's own folder: what is there by its name is replaced.
    """
    # A name that none but this function gives: what is there was left by a killed process.
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    fill_folder(partial, state, parts, released)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


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
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RepaError(f"damaged checkpoint: {path}: {error}") from None


def _read_text(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise RepaError(f"damaged checkpoint {folder}: {error}") from None


def _parse(model: type[Any], text: str | bytes, where: str) -> Any:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise RepaError(f"damaged checkpoint {where}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first thing in a state that is not as it should be."""
    first = error.errors()[0]
    text = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, first['loc']))}: {text}"
