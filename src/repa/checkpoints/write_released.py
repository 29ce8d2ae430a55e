"""Our parts to a file of the REPA release, or of DiT; `repa.checkpoints.released` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repa.checkpoints.families import family_of
from repa.checkpoints.fit import build_model
from repa.checkpoints.folder import Parts
from repa.checkpoints.optimizer import optimizer_to_released
from repa.checkpoints.released import OURS
from repa.checkpoints.state import CheckpointState, ReleasedRecord
from repa.errors import RepaError
from repa.models.released import NULL_CONTEXT, join_released_state_dict, released_parameters


def released_content(
    state: CheckpointState, parts: Parts, record: ReleasedRecord | None, path: Path
) -> dict[str, Any]:
    """What the release would have saved: with modern names, and options as a dict.

    What came as a state dict alone becomes one again. Heads that have no average stand for it. The
    release has no place for the empty text of an MMDiT of ours: it goes where its scripts do not
    look.

    Raises:
        RepaError: if the release has no such heads, samples no such predictions, or reads no such
            texts.
    """
    _check_known_to_release(state, parts, path)
    parts = {part: parts[part] for part in released_parts(state, parts)}
    order = list(build_model(state, path, "meta").state_dict())
    heads = dict(parts.get("heads", {}))
    ema_heads = dict(parts["ema_heads"]) if "ema_heads" in parts else heads
    content: dict[str, Any] = {}
    for part, its_heads in (("model", heads), ("ema", ema_heads)):
        if part in parts:
            tensors = parts[part]
            body = {key: tensors[key] for key in order}
            content[part] = join_released_state_dict(body, its_heads)
    if record is not None and record.bare:
        return content["ema"]
    if "optimizer" in parts:
        groups = None if record is None else record.param_groups
        content["opt"] = optimizer_to_released(
            parts["optimizer"], released_parameters(content["model"]), groups, state.options
        )
    if record is None:
        content["args"] = state.options
        content[OURS] = {"state": state.model_dump_json(), "ema_heads": "ema_heads" in parts}
        if NULL_CONTEXT in order:
            bodies = [part for part in ("model", "ema") if part in parts]
            content[OURS][NULL_CONTEXT] = {part: parts[part][NULL_CONTEXT] for part in bodies}
    elif record.args is not None:
        content["args"] = record.args
    return {**content, "steps": state.step}


def released_parts(state: CheckpointState, parts: Parts) -> list[str]:
    """Which parts `released_content` writes: of an aligned DiT, those that DiT's scripts read.

    They know no heads, and the optimizer's state counts the heads too.
    """
    if family_of(state.model) == "DiT" and "heads" in parts:
        return [part for part in parts if part in ("model", "ema")]
    return list(parts)


def _check_known_to_release(state: CheckpointState, parts: Parts, path: Path) -> None:
    if family_of(state.model) == "DiT":
        if state.model_arguments.get("qk_norm"):
            raise RepaError(f"{path}: DiT's scripts have no --qk-norm, which it was trained with")
        return
    if state.options.get("projection_layer_type") == "conv" and "heads" in parts:
        raise RepaError(
            f"{path}: its projection heads are convolutions (--projection-layer-type conv), which "
            "the release does not have"
        )
    prediction = state.options.get("prediction", "v")
    if prediction != "v":
        raise RepaError(
            f"{path}: it predicts {prediction} (--prediction), and the release samples velocities "
            "alone"
        )
    if state.model_arguments.get("mask_padding"):
        raise RepaError(
            f"{path}: it does not attend to its texts' padding (mask_padding), and the release does"
        )
