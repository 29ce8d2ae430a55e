"""Where a run starts: at step 0, or from one of its checkpoints, ours or the release's."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

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

T = TypeVar("T")

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
    and later ones are set aside, unless a run with the very same options wrote them: it went back
    before, and goes on.

    Raises:
        RepaError: if there is none of that step, or these options may not continue it.
    """
    newest = _on_main(accelerator, lambda: _newest(options, run, wanted))
    if newest is not None:
        return newest, _check_resumable(options, newest, wanted, accelerator)
    if not options.resume_step:
        _check_no_released(run)
        return None, wanted
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
        state = _check_resumable(options, checkpoint, wanted, accelerator)
    except RepaError:
        accelerator.wait_for_everyone()
        if not was_there and accelerator.is_main_process:
            shutil.rmtree(folder)  # or a later run would find it as its newest
        raise
    on_main(PartialState(), lambda: _set_aside_later(run, checkpoint))
    return checkpoint, state


def _on_main(accelerator: Accelerator, find: Callable[[], T]) -> T:
    """What one process finds, on all of them."""
    found: list[Any] = [None]

    def keep() -> None:
        found[0] = find()

    on_main(PartialState(), keep)
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def _newest(options: TrainOptions, run: Path, wanted: CheckpointState) -> Path | None:
    """The newest whole checkpoint; None if there is none or `--resume-step` wants another."""
    remove_unfinished(run)
    step = options.resume_step
    if step and not _has_gone_back(run, step, wanted):
        return None
    newest = _newest_whole(run)
    if step:
        print(f"--resume-step {step}: this command went back before, and goes on from {newest}")
    return newest


def _has_gone_back(run: Path, step: int, wanted: CheckpointState) -> bool:
    """Whether the newest checkpoint after a step is of these same options, `--resume-step` too.

    To go back would then be to compute the same once more.
    """
    for folder in reversed(list_checkpoints(run)):
        if int(folder.name) > step:
            with suppress(RepaError):  # damaged: the one before it says as much
                return read_state(folder).options == wanted.options
    return False


def _newest_whole(run: Path) -> Path | None:
    """The newest checkpoint whose files are what was written; those after it get another name.

    Raises:
        RepaError: if there are some and all are damaged, or one cannot be renamed.
    """
    found = None
    damaged = []
    for folder in reversed(list_checkpoints(run)):
        try:
            check_checkpoint(folder)
        except RepaError as error:
            damaged.append((folder, error))
        else:
            found = folder
            break
    if damaged and found is None:
        raise RepaError(
            f"all checkpoints of {run} are damaged ({damaged[0][1]}): choose another "
            "--exp-name, or delete them to begin anew"
        )
    for folder, problem in damaged:
        print(f"warning: {problem}: going on from {found}", file=sys.stderr)
        _rename(folder, ".damaged")
    return found


def _check_no_released(run: Path) -> None:
    steps = [int(p.stem) for p in (run / "checkpoints").glob("*.pt") if p.stem.isdigit()]
    if steps:
        raise RepaError(
            f"{run} is a run of the release: --resume-step {max(steps)} continues it, another "
            "--exp-name begins a new one"
        )


def _set_aside_later(run: Path, checkpoint: Path) -> None:
    """Checkpoints after one are of another course of the run: none of them is its newest."""
    for later in list_checkpoints(run):
        if int(later.name) > int(checkpoint.name):
            _rename(later, ".aside")


def _rename(checkpoint: Path, ending: str) -> None:
    """Takes a checkpoint out of the run's, without losing it or one that was taken out before.

    Raises:
        RepaError: if its folder may not be written to.
    """
    place = checkpoint.with_name(checkpoint.name + ending)
    for number in itertools.count(2):
        if not place.exists():
            break
        place = checkpoint.with_name(f"{checkpoint.name}{ending}{number}")
    try:
        checkpoint.rename(place)
    except OSError as error:
        raise RepaError(
            f"{checkpoint} cannot be renamed {place.name}: {error.strerror} (training writes there)"
        ) from None


def _check_resumable(
    options: TrainOptions, checkpoint: Path, wanted: CheckpointState, accelerator: Accelerator
) -> CheckpointState:
    """The wanted state with the checkpoint's step, loss scale and progress.

    Warns if it was trained on other images: a dataset may have grown.

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
    images = _images_a_step(found.options)
    if images and images != _images_a_step(wanted.options):
        differing.append(f"--batch-size times --gradient-accumulation-steps, {images} there")
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
    if _are_others(found.dataset, wanted.dataset) and accelerator.is_main_process:
        print(
            f"warning: {checkpoint} was trained on other images than {options.data_dir} has now: "
            "going on with these",
            file=sys.stderr,
        )
    kept = {"step": found.step, "scaler": found.scaler, "progress": found.progress}
    return wanted.model_copy(update=kept)


def _images_a_step(options: dict[str, Any]) -> int:
    """Which decides on the images of each step; 0 where options do not say it."""
    factors = options.get("batch_size"), options.get("gradient_accumulation_steps", 1)
    return factors[0] * factors[1] if all(isinstance(x, int) for x in factors) else 0


def _are_others(one: str, other: str) -> bool:
    """Whether two fingerprints are of different things; "" is of unknown ones."""
    return bool(one and other) and one != other
