"""What a checkpoint's `state.json` and `released.json` say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, field_validator

from repa.data.arrays import check_regular
from repa.data.format import AutoencoderRecord, TextRecord
from repa.diffusion.interpolant import PathType, Prediction
from repa.errors import RepaError

STATE = "state.json"
RELEASED = "released.json"


class Progress(BaseModel):
    """What a run had gathered since the last line of its log, and how far it was.

    Attributes:
        sums, counts: of each metric, in each process; a count may be a fraction after a
            start with another number of them.
        written: step of the log's last line.
        seconds: of training, over all starts.
        unwritten_seconds: those since that line, without pauses.
        skipped: steps that were left out for numbers that are not finite.
        skipped_in_row: how many of them were the last ones.
        unmeasured: what was due at this step was not drawn or measured yet.
    """

    model_config = ConfigDict(extra="forbid")

    sums: dict[str, list[float]] = {}
    counts: dict[str, list[float]] = {}
    written: NonNegativeInt
    seconds: float = 0.0
    unwritten_seconds: float = 0.0
    skipped: NonNegativeInt = 0
    skipped_in_row: NonNegativeInt = 0
    unmeasured: bool = False


class CheckpointState(BaseModel):
    """What `state.json` says.

    `dataset` is the fingerprint of the images that it was trained on, "" if unknown.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    step: NonNegativeInt
    model: str
    model_arguments: dict[str, Any]
    autoencoder: AutoencoderRecord
    resolution: int
    classes: list[str]
    dataset: str = ""
    options: dict[str, Any]
    text: TextRecord | None = None
    scaler: dict[str, Any] | None
    versions: dict[str, str]
    progress: Progress | None = None

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


def _read_text(folder: Path, name: str) -> bytes:
    try:
        check_regular(folder / name)
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
