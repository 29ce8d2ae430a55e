"""Where a run starts: at step 0, or from one of its checkpoints, ours or the release's."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list

from repa.checkpoints import CheckpointState, continue_released, list_checkpoints, read_state
from repa.checkpoints.folder import check_checkpoint
from repa.config import TrainOptions
from repa.data import ImageDataset
from repa.errors import RepaError
from repa.processes import on_main
from repa.training.rotation import remove_unfinished
from repa.training.texts import Texts

# Options that a run keeps, besides its model and data.
KEPT = (
    "seed",
    "enc_type",
    "encoder_depth",
    "projector_dim",
    "projection_layer_type",
    "projection_loss_type",
    "target_norm",
    "text_enc_type",
    "path_type",
    "prediction",
    "batch_size",
)
FLAGS = {  # that decide on arguments of the model
    "num_classes": "--num-classes",
    "class_dropout_prob": "--cfg-prob or --legacy",
    "context_dropout_prob": "--cfg-prob or --legacy",
    "qk_norm": "--qk-norm",
}


def find_start(
    options: TrainOptions,
    run: Path,
    dataset: ImageDataset,
    wanted: CheckpointState,
    texts: Texts | None,
    accelerator: Accelerator,
) -> tuple[Path | None, CheckpointState]:
    """The checkpoint to continue from and its state; None and `wanted` for a new run.

    That is the checkpoint of `--resume-step`, else the newest that is what was written: damaged
    ones after it are renamed, with a warning. The release's of `--resume-step` is translated first,
    and later ones are set aside.

    Raises:
        RepaError: if there is none of that step, or these options may not continue it.
    """
    if not options.resume_step:
        checkpoint = _newest_whole(run, accelerator)
        if checkpoint is None:
            _check_no_released(run)
            return None, wanted
        return checkpoint, _check_resumable(options, checkpoint, wanted)
    folder = run / "checkpoints" / f"{options.resume_step:07d}"
    was_there = folder.exists()
    manifest = dataset.manifest
    with accelerator.main_process_first():  # one translates, the others find it done
        checkpoint = continue_released(
            run, options.resume_step, manifest.autoencoder, manifest.resolution, manifest.classes,
            null_context=None if texts is None else texts.empty,
        )  # fmt: skip
    on_main(PartialState(), lambda: check_checkpoint(checkpoint))
    try:
        state = _check_resumable(options, checkpoint, wanted)
    except RepaError:
        accelerator.wait_for_everyone()
        if not was_there and accelerator.is_main_process:
            shutil.rmtree(folder)  # or a later run would find it as its newest
        raise
    if accelerator.is_main_process:
        _set_aside_later(run, options.resume_step)
    accelerator.wait_for_everyone()
    return checkpoint, state


def _newest_whole(run: Path, accelerator: Accelerator) -> Path | None:
    """The newest checkpoint whose files are what was written; those after it get another name.

    One process reads them, and tells the others.

    Raises:
        RepaError: if there are some and all are damaged.
    """
    found: list[Path | None] = [None]

    def find() -> None:
        remove_unfinished(run)
        damaged = []
        for folder in reversed(list_checkpoints(run)):
            try:
                check_checkpoint(folder)
            except RepaError as error:
                damaged.append((folder, error))
            else:
                found[0] = folder
                break
        if damaged and found[0] is None:
            raise RepaError(
                f"all checkpoints of {run} are damaged ({damaged[0][1]}): choose another "
                "--exp-name, or delete them to begin anew"
            )
        for folder, problem in damaged:
            print(f"warning: {problem}: going on from {found[0]}", file=sys.stderr)
            _rename(folder, ".damaged")

    on_main(PartialState(), find)
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def _check_no_released(run: Path) -> None:
    steps = [int(p.stem) for p in (run / "checkpoints").glob("*.pt") if p.stem.isdigit()]
    if steps:
        raise RepaError(
            f"{run} is a run of the release: --resume-step {max(steps)} continues it, another "
            "--exp-name begins a new one"
        )


def _set_aside_later(run: Path, step: int) -> None:
    """Checkpoints after a step are of another course of the run: none of them is its newest."""
    for later in list_checkpoints(run):
        if int(later.name) > step:
            _rename(later, ".aside")


def _rename(checkpoint: Path, ending: str) -> None:
    """Takes a checkpoint out of the run's, without losing it."""
    place = checkpoint.with_name(checkpoint.name + ending)
    shutil.rmtree(place, ignore_errors=True)
    checkpoint.rename(place)


def _check_resumable(
    options: TrainOptions, checkpoint: Path, wanted: CheckpointState
) -> CheckpointState:
    """The wanted state with the checkpoint's step, loss scale and progress.

    Raises:
        RepaError: if it is of another run, or already past the last step.
    """
    if options.resume == "no":
        raise RepaError(f"--resume no: {checkpoint} exists; choose another --exp-name or delete it")
    found = read_state(checkpoint)
    if found.model != wanted.model:
        raise RepaError(
            f"{checkpoint} is of {found.model}, not {wanted.model} (--model): choose another name "
            "or folder for this run"
        )
    same = ("autoencoder", "resolution")
    differing = [name for name in same if getattr(found, name) != getattr(wanted, name)]
    theirs, ours = found.model_arguments, wanted.model_arguments
    differing += [
        f"{FLAGS.get(name, name)}, {theirs.get(name)} there"
        for name in ours
        if name != "fused_attn" and theirs.get(name) != ours[name]
    ]
    if found.text and wanted.text and _are_others(found.text.weights, wanted.text.weights):
        differing.append("the text encoder's weights")
    differing += [
        "--" + name.replace("_", "-")
        for name in KEPT
        if name in found.options and found.options[name] != wanted.options[name]
    ]
    if differing:
        raise RepaError(
            f"{checkpoint} is of another run (different: {', '.join(differing)}): choose another "
            "name or folder for this one"
        )
    if found.step > options.max_train_steps:
        raise RepaError(
            f"{checkpoint} is past --max-train-steps {options.max_train_steps}: choose another "
            "name or folder for this run"
        )
    kept = {"step": found.step, "scaler": found.scaler, "progress": found.progress}
    return wanted.model_copy(update=kept)


def _are_others(one: str, other: str) -> bool:
    """Whether two fingerprints are of different weights; "" is of unknown ones."""
    return bool(one and other) and one != other
