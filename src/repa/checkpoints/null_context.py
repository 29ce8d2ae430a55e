"""The empty text's tokens, which MMDiT needs (`null_context`) and the release's files do not hold.

Guidance compares with them, and training replaces texts by them. The release reads them from its
dataset. Without them the model has zeros there, and the state's options say so.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from repa.checkpoints.folder import LazyParts, Parts
from repa.checkpoints.state import CheckpointState
from repa.models.released import NULL_CONTEXT

MISSING = "missing"  # what the option `null_context` says
CLIP_LENGTH = 77  # tokens of every text of CLIP's, which the release encodes texts with


def lacks_null_context(state: CheckpointState) -> bool:
    """Whether the model has zeros for the empty text, because its file held nothing."""
    return state.options.get(NULL_CONTEXT) == MISSING


def fill_null_context(
    state: CheckpointState, parts: Parts, tokens: Tensor
) -> tuple[CheckpointState, Parts]:
    """State and parts with the empty text's tokens, where they lack them; else as they are.

    Args:
        state: of the checkpoint.
        parts: of the checkpoint.
        tokens: (L, context_dim), floating-point.
    """
    if not lacks_null_context(state):
        return state, parts
    update = {
        "options": {key: value for key, value in state.options.items() if key != NULL_CONTEXT},
        "model_arguments": state.model_arguments | {"context_length": len(tokens)},
    }
    return state.model_copy(update=update), FilledParts(parts, tokens)


class FilledParts(LazyParts):
    """A checkpoint's parts with the same empty text in weights and averages.

    Args:
        parts: of the checkpoint.
        tokens: (L, context_dim).
    """

    def __init__(self, parts: Parts, tokens: Tensor):
        super().__init__(parts)
        self._tokens = tokens

    def __getitem__(self, part: str) -> Mapping[str, Tensor]:
        tensors = self._parts[part]
        if part not in ("model", "ema"):
            return tensors
        return {**tensors, NULL_CONTEXT: self._tokens.float().clone()}
