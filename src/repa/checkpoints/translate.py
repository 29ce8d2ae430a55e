"""Checkpoints from one format to another."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

from repa.checkpoints.checkpoint import Checkpoint, open_checkpoint
from repa.checkpoints.folder import STATE, write_folder
from repa.checkpoints.pretrained import CONFIG, write_pretrained
from repa.checkpoints.released import released_content
from repa.data.format import AutoencoderRecord
from repa.errors import RepaError, first_line
from repa.models import create_model
from repa.weights import load_weights

Format = Literal["repa", "released", "pretrained"]
PART_NAMES = {
    "model": "weights",
    "ema": "averaged weights",
    "heads": "projection heads",
    "ema_heads": "averaged projection heads",
    "optimizer": "optimizer",
}


def import_released(
    path: Path,
    dest: Path,
    encoder_depth: int | None = None,
    model: str | None = None,
    autoencoder: AutoencoderRecord | None = None,
    resolution: int | None = None,
    classes: list[str] | None = None,
) -> Path:
    """Writes a released checkpoint as one of ours.

    Args:
        path: the checkpoint, in any format that `repa.checkpoints.load_model` takes.
        dest: the folder to write, which must not exist.
        encoder_depth, model: as for `load_model`.
        autoencoder, resolution, classes: of the dataset that it was trained on, where they are
            known better than the file can tell.

    Returns:
        `dest`.

    Raises:
        RepaError: if the file cannot be used or the folder not be written.
    """
    known = {"autoencoder": autoencoder, "resolution": resolution, "classes": classes}
    checkpoint = open_checkpoint(path, encoder_depth, model)
    update = {key: value for key, value in known.items() if value is not None}
    state = checkpoint.state.model_copy(update=update)
    write_checkpoint(replace(checkpoint, state=state), dest, "repa")
    return dest


def continue_released(
    run: Path,
    step: int,
    autoencoder: AutoencoderRecord | None = None,
    resolution: int | None = None,
    classes: list[str] | None = None,
) -> Path:
    """The checkpoint of that step in a run's folder, translated if it is the release's.

    Only one process may call it, while the others wait. For the arguments see `import_released`.

    Raises:
        RepaError: if there is no such checkpoint, or the release's cannot be used.
    """
    folder = run / "checkpoints" / f"{step:07d}"
    file = folder.with_name(folder.name + ".pt")
    if (folder / STATE).exists():
        return folder
    if not file.is_file():
        raise RepaError(f"no checkpoint of step {step} in {run}: neither {folder} nor {file}")
    return import_released(
        file, folder, autoencoder=autoencoder, resolution=resolution, classes=classes
    )


def write_checkpoint(
    checkpoint: Checkpoint, dest: Path, form: Format, overwrite: bool = False
) -> None:
    """Writes a checkpoint in a format; what it was written to is whole or not there.

    Args:
        checkpoint: what to write.
        dest: a folder; for "released" a file ending in .pt.
        form: "repa", "released" or "pretrained".
        overwrite: replace a checkpoint that is there.

    Raises:
        RepaError: if `dest` cannot be written, or the checkpoint has not what the format needs.
    """
    _check_dest(checkpoint.path, dest, form, overwrite)
    partial = dest.with_name(dest.name + ".partial")
    with _cleaned_up(partial, dest):
        # Before any work: a destination that cannot be written is known now.
        _remove(partial)
        partial.mkdir(parents=True)
        if form == "repa":
            write_folder(dest, checkpoint.state, checkpoint.parts, checkpoint.released)
            return
        if form == "pretrained":
            network = create_model(checkpoint.state.model, **checkpoint.state.model_arguments)
            load_weights(network, checkpoint.weights(raw=False), checkpoint.path)
            write_pretrained(partial, network, checkpoint.state, checkpoint.parts)
        else:
            partial.rmdir()
            content = released_content(checkpoint.state, checkpoint.parts, checkpoint.released)
            torch.save(content, partial)
        _remove(dest)
        partial.rename(dest)


def _check_dest(source: Path, dest: Path, form: Format, overwrite: bool) -> None:
    is_file = form == "released"
    if is_file != (dest.suffix == ".pt"):
        kind = "a file: end its name in .pt" if is_file else "a folder: leave the ending .pt off"
        raise RepaError(f"--dest {dest}: --to {form} writes {kind}")
    here, there = source.resolve(), dest.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise RepaError(f"--dest {dest} and --ckpt {source} lie within each other: choose another")
    if not dest.exists():
        return
    if not overwrite:
        raise RepaError(f"--dest {dest} exists: choose another, or --overwrite replaces it")
    is_ours = dest.is_file() if is_file else any((dest / name).exists() for name in (STATE, CONFIG))
    if not is_ours:
        raise RepaError(f"--dest {dest} is no checkpoint: --overwrite does not replace it")


@contextmanager
def _cleaned_up(partial: Path, dest: Path) -> Iterator[None]:
    """What cannot be written becomes one line, and half a checkpoint is not left behind."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RepaError(f"--dest {dest}: cannot be written: {reason}") from None
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def list_parts(parts: Collection[str]) -> str:
    """The parts, for a person."""
    return ", ".join(name for part, name in PART_NAMES.items() if part in parts)
