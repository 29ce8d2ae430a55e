"""From a checkpoint of any format to its backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.fit import build_model, check_size
from repa.checkpoints.state import CheckpointState
from repa.diffusion import Objective, create_objective
from repa.diffusion.interpolant import PathType, Prediction
from repa.errors import RepaError
from repa.models import Backbone
from repa.weights import load_weights


def load_model(
    path: Path,
    raw_weights: bool = False,
    encoder_depth: int | None = None,
    model: str | None = None,
) -> tuple[Backbone, CheckpointState]:
    """The backbone of a checkpoint, in evaluation mode on the CPU.

    Args:
        path: a run's folder (its newest checkpoint), a checkpoint's folder, a folder of
            `from_pretrained`, or a file: the release's training checkpoint or its published state
            dict, SiT's or DiT's, or any of these as .safetensors. A checkpoint is found with and
            without the ending .pt, whichever way it was written. The release's MMDiT comes without
            the empty text's tokens; see `repa.checkpoints.lacks_null_context`.
        raw_weights: the trained weights instead of their average.
        encoder_depth: depth after which the blocks of an early released file are counted anew;
            only for a file that does not say it.
        model: name of the backbone, checked against the file; it tells SiT's own files from DiT's.

    Raises:
        RepaError: if there is no checkpoint, or it is damaged, unsafe, or not what was asked for.
    """
    checkpoint = open_checkpoint(path, encoder_depth, model, with_optimizer=False)
    weights = checkpoint.weights(raw_weights)
    check_size(checkpoint.state, weights, checkpoint.path)
    network = build_model(checkpoint.state, checkpoint.path)
    load_weights(network, weights, checkpoint.path)
    return network.eval(), checkpoint.state


def objective_of(
    model: Backbone,
    state: CheckpointState,
    path_type: PathType | None = None,
    prediction: Prediction | None = None,
) -> Objective:
    """What a model was trained for, as its checkpoint says.

    Args:
        model: the backbone.
        state: of its checkpoint.
        path_type, prediction: of a flow whose checkpoint does not say them; linear and v by
            default.

    Raises:
        RepaError: if the checkpoint says something else, or the model has no such choice.
    """
    ddpm = {"path_type": "linear", "prediction": "eps"}
    said = ddpm if model.objective == "ddpm" else state.options
    wanted = {"path_type": path_type, "prediction": prediction}
    chosen: dict[str, Any] = {}
    for name, value in wanted.items():
        if value is not None and said.get(name) not in (None, value):
            why = f"the checkpoint was trained with {said[name]}"
            if model.objective == "ddpm":
                why = f"{state.model} has no such choice"
            raise RepaError(f"--{name.replace('_', '-')} {value}: {why}")
        chosen |= {name: known} if (known := said.get(name) or value) is not None else {}
    return create_objective(model.objective, **chosen)
