"""Which texts images are drawn for: `--prompt`, `--prompts-file` or `--captions`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repa.checkpoints import CheckpointState, lacks_null_context
from repa.config import DrawOptions
from repa.data import ImageDataset, open_dataset
from repa.errors import RepaError
from repa.models import MMDiT
from repa.sampling.conditions import first_caption, of_captions
from repa.text import create_text_encoder


@dataclass(frozen=True)
class Prompts:
    """Texts by number, and their tokens.

    Attributes:
        count: how many there are.
        texts: what they say; None where only their tokens are known.
        tokens: from numbers (n,) to tokens (n, L, D), floating.
        empty: tokens of the empty text (L, D).
        fingerprint: of the texts, or of the dataset that has their tokens.
    """

    count: int
    texts: Sequence[str] | None
    tokens: Callable[[Sequence[int]], Tensor]
    empty: Callable[[], Tensor]
    fingerprint: str


def choose_prompts(options: DrawOptions, state: CheckpointState, device: torch.device) -> Prompts:
    """The texts that the options name, for a model that was trained with a text encoder.

    Raises:
        RepaError: if there are none, or their tokens cannot be had.
    """
    name = state.options.get("text_enc_type") or "clip-vit-l"
    given = [o for o in ("prompt", "prompts_file", "captions") if getattr(options, o) is not None]
    if len(given) != 1:
        raise RepaError(
            f"{state.model} draws texts: give one of --prompt, --prompts-file and --captions"
        )
    if "classes" in options.model_fields_set:
        raise RepaError(f"--classes: {state.model} draws texts")
    if options.captions is not None:
        dataset = open_dataset(options.captions)
        if name in dataset.manifest.text:
            return _stored(dataset, name, state)
        if not dataset.manifest.has_captions:
            raise RepaError(
                f"--captions {options.captions}: it has neither captions nor tokens of {name}"
            )
        texts = [first_caption(dataset, i) for i in range(len(dataset))]
    else:
        texts = _texts(options)
    encoder = create_text_encoder(name, options.text_encoder_weights).to(device)
    _check(name, encoder.dim, encoder.fingerprint, state)

    def tokens(numbers: Sequence[int]) -> Tensor:
        return encoder([texts[number] for number in numbers])

    decisive = json.dumps([name, encoder.fingerprint, texts])
    digest = hashlib.sha256(decisive.encode()).hexdigest()
    return Prompts(len(texts), texts, tokens, lambda: encoder([""])[0], digest)


def fill_null_context(model: MMDiT, prompts: Prompts, state: CheckpointState) -> None:
    """Gives a model of the release, whose file has no tokens of the empty text, these tokens."""
    if lacks_null_context(state):
        model.null_context = prompts.empty().to(model.null_context)


def _texts(options: DrawOptions) -> list[str]:
    if options.prompt is not None:
        return list(options.prompt)
    path = options.prompts_file
    assert path is not None  # one of them is given
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RepaError(f"--prompts-file {path}: {error}") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise RepaError(f"--prompts-file {path}: no line with a text in it")
    return texts


def _stored(dataset: ImageDataset, name: str, state: CheckpointState) -> Prompts:
    """The first caption of each image, whose tokens the dataset has."""
    record = dataset.manifest.text[name]
    _check(name, record.dim, record.weights, state)
    texts = None
    if dataset.manifest.has_captions:
        texts = [first_caption(dataset, i) for i in range(len(dataset))]

    tokens = of_captions(dataset, range(len(dataset)), name, None)

    def empty() -> Tensor:
        return torch.from_numpy(dataset.empty_text(name).copy())

    return Prompts(len(dataset), texts, tokens, empty, dataset.manifest.source.fingerprint)


def _check(name: str, dim: int, found: str, state: CheckpointState) -> None:
    """Whether texts are encoded as those that the model was trained with.

    The weights are compared where both are known.
    """
    wanted = state.model_arguments.get("context_dim")
    if dim != wanted:
        raise RepaError(f"text encoder {name} gives tokens of {dim}, {state.model} takes {wanted}")
    trained = state.text.weights if state.text is not None else ""
    if found and trained and found != trained:
        raise RepaError(
            f"the text encoder {name} has other weights than the one that {state.model} was "
            "trained with: give those as --text-encoder-weights"
        )
