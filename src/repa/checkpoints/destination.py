"""Where `repa convert` writes: what may be replaced, and a place beside it to write to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError

from repa.checkpoints.checksums import CHECKSUMS
from repa.checkpoints.folder import PARTS
from repa.checkpoints.pretrained import CONFIG, FILES, README, read_config
from repa.checkpoints.state import RELEASED, STATE, read_state
from repa.errors import RepaError, first_line
from repa.weights import read_weights

Format = Literal["repa", "released", "pretrained"]
# All that is written here. A folder with anything else in it is never replaced.
TENSORS = (f"{part}.safetensors" for part in PARTS)
NAMES = {STATE, RELEASED, CHECKSUMS, CONFIG, README, *FILES.values(), *TENSORS}
PREFIX = ".repa-convert-"


def check_destination(source: Path, dest: Path, form: Format, overwrite: bool) -> None:
    """Whether a checkpoint may be written to `dest`.

    Raises:
        RepaError: if it is of the wrong kind, lies in the source or the other way round, is a
            link, or is there and may not be replaced.
    """
    is_file = form == "released"
    if is_file != (dest.suffix == ".pt"):
        kind = "a file: end its name in .pt" if is_file else "a folder: leave the ending .pt off"
        raise RepaError(f"--dest {dest}: --to {form} writes {kind}")
    here, there = source.resolve(), dest.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise RepaError(f"--dest {dest} and --ckpt {source} lie within each other: choose another")
    if dest.is_symlink():
        raise RepaError(
            f"--dest {dest} is a symbolic link, which is not replaced: choose another, or name "
            "what it points to"
        )
    if not dest.exists():
        return
    if not overwrite:
        raise RepaError(f"--dest {dest} exists: choose another, or --overwrite replaces it")
    if not (_is_checkpoint_file(dest) if is_file else _is_checkpoint_folder(dest)):
        raise RepaError(
            f"--dest {dest} is no checkpoint: --overwrite does not replace it"
            + ("" if is_file else ", nor a folder that holds anything else")
        )


@contextmanager
def written_beside(dest: Path) -> Iterator[Path]:
    """A new path to write to, in a hidden folder of its own beside `dest`; removed at the end.

    Its name is random, so that no file of anyone is in the way. What a killed process leaves there
    is harmless.

    Raises:
        RepaError: if something cannot be written.
    """
    holder = None
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=dest.parent))
        yield holder / dest.name  # not the holder, which no one else may read
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RepaError(f"--dest {dest}: cannot be written: {reason}") from None
    finally:
        if holder is not None:
            shutil.rmtree(holder, ignore_errors=True)


def put_in_place(partial: Path, dest: Path) -> None:
    """Renames what was written, in the place of what `check_destination` allows to replace."""
    if dest.is_dir():
        shutil.rmtree(dest)
    partial.replace(dest)


def _is_checkpoint_file(path: Path) -> bool:
    try:
        content = read_weights(path)
    except RepaError:
        return False
    states = (content, content.get("ema"), content.get("model"))
    return any(isinstance(s, Mapping) and "x_embedder.proj.weight" in s for s in states)


def _is_checkpoint_folder(folder: Path) -> bool:
    if not folder.is_dir() or not all(p.is_file() and p.name in NAMES for p in folder.iterdir()):
        return False
    names = {path.name for path in folder.iterdir()}
    try:
        if STATE in names:
            read_state(folder)
            return True
        read_config(folder)
        return FILES["ema"] in names
    except RepaError:
        return False
