"""Checkpoints from one format to another."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from repa.checkpoints.checkpoint import Checkpoint, open_checkpoint
from repa.checkpoints.destination import (
    Format,
    check_destination,
    put_in_place,
    written_beside,
)
from repa.checkpoints.fit import FittingParts, build_model
from repa.checkpoints.folder import fill_folder
from repa.checkpoints.null_context import fill_null_context
from repa.checkpoints.pretrained import write_pretrained
from repa.checkpoints.state import STATE
from repa.checkpoints.write_released import released_content
from repa.data.format import AutoencoderRecord
from repa.errors import RepaError
from repa.weights import load_weights

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
    null_context: Tensor | None = None,
) -> Path:
    """Writes a released checkpoint as one of ours.

    Args:
        path: the checkpoint, in any format that `repa.checkpoints.load_model` takes.
        dest: the folder to write, which must not exist.
        encoder_depth, model: as for `load_model`.
        autoencoder, resolution, classes: of the dataset that it was trained on, where they are
            known better than the file can tell.
        null_context: the empty text's tokens (L, D), floating-point, for an MMDiT that lacks them.

    Returns:
        `dest`.

    Raises:
        RepaError: if the file cannot be used or the folder not be written.
    """
    known = {"autoencoder": autoencoder, "resolution": resolution, "classes": classes}
    checkpoint = open_checkpoint(path, encoder_depth, model)
    update = {key: value for key, value in known.items() if value is not None}
    state, parts = checkpoint.state.model_copy(update=update), checkpoint.parts
    if null_context is not None:
        state, parts = fill_null_context(state, parts, null_context)
    write_checkpoint(replace(checkpoint, state=state, parts=parts), dest, "repa")
    return dest


def continue_released(
    run: Path,
    step: int,
    autoencoder: AutoencoderRecord | None = None,
    resolution: int | None = None,
    classes: list[str] | None = None,
    null_context: Tensor | None = None,
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
        file,
        folder,
        autoencoder=autoencoder,
        resolution=resolution,
        classes=classes,
        null_context=null_context,
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
    path, state = checkpoint.path, checkpoint.state
    check_destination(path, dest, form, overwrite)
    if form == "pretrained" and "ema" not in checkpoint.parts:
        raise RepaError(f"{path} has no averaged weights, which --to pretrained writes")
    parts = FittingParts(state, checkpoint.parts, path)
    with written_beside(dest) as partial:
        if form == "repa":
            fill_folder(partial, state, parts, checkpoint.released)
        elif form == "pretrained":
            weights = dict(parts["ema"])  # before the model: they are compared with its sizes
            network = build_model(state, path)
            load_weights(network, weights, path)
            partial.mkdir()
            write_pretrained(partial, network, state, parts)
        else:
            torch.save(released_content(state, parts, checkpoint.released, path), partial)
        check_destination(path, dest, form, overwrite)  # it may have come meanwhile
        put_in_place(partial, dest)


def list_parts(parts: Collection[str]) -> str:
    """The parts, for a person."""
    return ", ".join(name for part, name in PART_NAMES.items() if part in parts)
