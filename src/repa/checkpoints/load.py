"""From a checkpoint of any format to its backbone."""

from __future__ import annotations

from pathlib import Path

from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.fit import build_model
from repa.checkpoints.folder import CheckpointState
from repa.diffusion import Objective, create_objective
from repa.diffusion.interpolant import PathType, Prediction
from repa.errors import RepaError
from repa.models import Transformer
from repa.weights import load_weights


def load_model(
    path: Path,
    raw_weights: bool = False,
    encoder_depth: int | None = None,
    model: str | None = None,
) -> tuple[Transformer, CheckpointState]:
    """The backbone of a checkpoint, in evaluation mode on the CPU.

    Args:
        path: a run's folder (its newest checkpoint), a checkpoint's folder, a folder of
            `from_pretrained`, or a file: the release's training checkpoint or its published state
            dict, SiT's or DiT's, or any of these as .safetensors. A checkpoint is found with and
            without the ending .pt, whichever way it was written.
        raw_weights: the trained weights instead of their average.
        encoder_depth: depth after which the blocks of an early released file are counted anew;
            only for a file that does not say it.
        model: name of the backbone, checked against the file; it tells SiT's own files from DiT's.

    Raises:
        RepaError: if there is no checkpoint, or it is damaged, unsafe, or not what was asked for.
    """
    checkpoint = open_checkpoint(path, encoder_depth, model, with_optimizer=False)
    weights = checkpoint.weights(raw_weights)
    network = build_model(checkpoint.state, checkpoint.path)
    load_weights(network, weights, checkpoint.path)
    return network.eval(), checkpoint.state


def objective_of(
    model: Transformer, state: CheckpointState, path_type: PathType | None
) -> Objective:
    """What a model was trained for: as its checkpoint says, on the path that it or else one says.

    Args:
        model: the backbone.
        state: of its checkpoint.
        path_type: of a flow whose checkpoint does not say it; linear by default.

    Raises:
        RepaError: if the checkpoint says another path, or the model has none.
    """
    known: PathType | None = "linear"
    if model.objective == "flow":
        known = state.options.get("path_type")
    if known is not None and path_type not in (None, known):
        why = f"{state.model} has no path"
        if model.objective == "flow":
            why = f"the checkpoint was trained on {known}"
        raise RepaError(f"--path-type {path_type}: {why}")
    prediction: Prediction = state.options.get("prediction", "v")
    return create_objective(model.objective, known or path_type or "linear", prediction)
