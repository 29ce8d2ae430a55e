"""From a checkpoint to its backbone."""

from __future__ import annotations

from pathlib import Path

from repa.checkpoints.folder import CheckpointState, find_checkpoint, load_into, read_state
from repa.errors import RepaError
from repa.models import SiT, create_model


def load_model(path: Path, raw_weights: bool = False) -> tuple[SiT, CheckpointState]:
    """The backbone of a checkpoint, in evaluation mode on the CPU.

    Args:
        path: a run's folder or a checkpoint's.
        raw_weights: the trained weights instead of their average.

    Raises:
        RepaError: if there is no checkpoint or it is damaged.
    """
    folder = find_checkpoint(path)
    if folder is None:
        raise RepaError(f"no checkpoint in {path} (--ckpt takes a run's folder or a checkpoint)")
    state = read_state(folder)
    model = create_model(state.model, **state.model_arguments)
    load_into(model, folder, "model" if raw_weights else "ema")
    return model.eval(), state
