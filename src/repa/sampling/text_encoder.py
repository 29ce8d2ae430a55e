"""The text encoder of a model: which one it is, and whether its tokens are the model's."""

from __future__ import annotations

from accelerate import PartialState
from torch import Tensor

from repa.checkpoints import CheckpointState, lacks_null_context
from repa.config.sample import TextEncoderOptions
from repa.errors import RepaError
from repa.models import MMDiT
from repa.processes import on_main
from repa.text import TextEncoder, create_text_encoder

RELEASED_TEXT_ENCODER = "clip-vit-l"  # of a model that does not say it


def text_encoder_name(options: TextEncoderOptions, state: CheckpointState) -> str:
    """As the checkpoint says it, else as the options do, else the release's.

    Raises:
        RepaError: if they contradict each other.
    """
    trained, given = state.options.get("text_enc_type"), options.text_enc_type
    if given is not None and trained not in (None, given):
        raise RepaError(
            f"--text-enc-type {given}: {state.model} was trained with {trained}; leave it out "
            "(--text-encoder-weights says where its files are)"
        )
    return trained or given or RELEASED_TEXT_ENCODER


def open_text_encoder(
    options: TextEncoderOptions, model: MMDiT, state: CheckpointState, processes: PartialState
) -> TextEncoder:
    """The model's text encoder, on the process's device. All processes must call it.

    Raises:
        RepaError: if it cannot be had, or is not the one that the model was trained with.
    """
    first: list[TextEncoder] = []  # the others wait while one downloads it, and says what is wrong
    on_main(processes, lambda: first.append(_open(options, model, state)))
    encoder = first[0] if first else _open(options, model, state)
    return encoder.to(processes.device)


def check_sizes(name: str, length: int, dim: int, model: MMDiT, state: CheckpointState) -> None:
    """Whether tokens are such as the model was trained with.

    A model that masks padding takes any number of tokens; the release's files do not tell theirs.

    Args:
        name: of the text encoder.
        length, dim: number and width of a text's tokens.
        model: the backbone.
        state: of its checkpoint.

    Raises:
        RepaError: if they are of another width or number.
    """
    taken = model.context_embedder.in_features
    if dim != taken:
        raise RepaError(f"text encoder {name} gives tokens of {dim}, {state.model} takes {taken}")
    trained = len(model.null_context)
    if length != trained and not model.mask_padding and not lacks_null_context(state):
        raise RepaError(
            f"text encoder {name} gives {length} tokens a text, {state.model} was trained with "
            f"{trained}: give its own text encoder"
        )


def has_other_weights(found: str, state: CheckpointState) -> bool:
    """Whether this fingerprint is not that of the model's text encoder, where both are known."""
    trained = state.text.weights if state.text is not None else ""
    return bool(found and trained and found != trained)


def fill_null_context(model: MMDiT, empty: Tensor) -> None:
    """Gives a model of the release, whose file has no tokens of the empty text (L, D), these."""
    model.null_context = empty.to(model.null_context)


def _open(options: TextEncoderOptions, model: MMDiT, state: CheckpointState) -> TextEncoder:
    name = text_encoder_name(options, state)
    encoder = create_text_encoder(name, options.text_encoder_weights)
    check_sizes(name, encoder.length, encoder.dim, model, state)
    if has_other_weights(encoder.fingerprint, state):
        raise RepaError(
            f"the text encoder {name} has other weights than the one that {state.model} was "
            "trained with: give those as --text-encoder-weights"
        )
    return encoder
