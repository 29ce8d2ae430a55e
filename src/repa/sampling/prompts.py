"""Which texts images are drawn for: `--prompt`, `--prompts-file` or `--captions`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from repa.checkpoints import CheckpointState
from repa.config import DrawOptions
from repa.data import ImageDataset, PreparedDataset, UViTDataset, open_dataset
from repa.errors import RepaError
from repa.models import MMDiT
from repa.sampling.conditions import first_caption, of_captions
from repa.sampling.text_encoder import (
    check_sizes,
    has_other_weights,
    open_text_encoder,
    text_encoder_name,
)
from repa.text import TextEncoder, cut_notice


@dataclass(frozen=True)
class Prompts:
    """Texts by number, and their tokens.

    Attributes:
        count: how many there are.
        texts: what they say; None where only their tokens are known.
        tokens: from numbers (n,) to tokens (n, L, D), floating.
        empty: tokens of the empty text (L, D).
        fingerprint: of all that decides on the tokens: texts, or files, and text encoder.
        cut: says how many texts are longer than what is seen of them; None if no text is.
    """

    count: int
    texts: Sequence[str] | None
    tokens: Callable[[Sequence[int]], Tensor]
    empty: Callable[[], Tensor]
    fingerprint: str
    cut: Callable[[], str | None]


def choose_prompts(
    options: DrawOptions, model: MMDiT, state: CheckpointState, processes: PartialState
) -> Prompts:
    """The texts that the options name, for a model that was trained with a text encoder.

    Raises:
        RepaError: if there are none, or their tokens cannot be had.
    """
    given = [o for o in ("prompt", "prompts_file", "captions") if getattr(options, o) is not None]
    if len(given) != 1:
        raise RepaError(
            f"{state.model} draws texts: give one of --prompt, --prompts-file and --captions"
        )
    if "classes" in options.model_fields_set:
        raise RepaError(f"--classes: {state.model} draws texts")
    if options.captions is not None:
        dataset = open_dataset(options.captions)
        name = text_encoder_name(options, state)
        if name in dataset.manifest.text and not _encodes_anew(options, dataset):
            return _stored(dataset, name, model, state)
        if not dataset.manifest.has_captions:
            raise RepaError(
                f"--captions {options.captions}: it has neither captions nor tokens of {name}; "
                "give a dataset prepared of images with captions"
            )
        texts = _first_captions(dataset)
    else:
        texts = _texts(options)
    return _encoded(texts, open_text_encoder(options, model, state, processes))


def _texts(options: DrawOptions) -> list[str]:
    """Without blanks around them; of a file, without empty lines."""
    if options.prompt is not None:
        return [text.strip() for text in options.prompt]
    path = options.prompts_file
    assert path is not None  # one of them is given
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RepaError(f"--prompts-file {path}: {error}") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise RepaError(f"--prompts-file {path}: no line with a text in it")
    return texts


def _first_captions(dataset: ImageDataset) -> list[str]:
    return [first_caption(dataset, i) for i in range(len(dataset))]


def _encoded(texts: list[str], encoder: TextEncoder) -> Prompts:
    """Texts that are encoded when they are drawn."""

    def tokens(numbers: Sequence[int]) -> Tensor:
        return encoder([texts[number] for number in numbers])

    return Prompts(
        count=len(texts),
        texts=texts,
        tokens=tokens,
        empty=lambda: encoder([""])[0],
        fingerprint=_hash([encoder.name, encoder.fingerprint, texts]),
        cut=lambda: cut_notice(encoder, texts, "prompts"),
    )


def _encodes_anew(options: DrawOptions, dataset: ImageDataset) -> bool:
    """Whether the user has given weights to encode captions by whose tokens are stored.

    Raises:
        RepaError: if there are only the tokens.
    """
    if options.text_encoder_weights is not None and not dataset.manifest.has_captions:
        raise RepaError(
            f"--text-encoder-weights: {options.captions} has tokens of its captions and not their "
            "words: leave it out"
        )
    return options.text_encoder_weights is not None


def _stored(dataset: ImageDataset, name: str, model: MMDiT, state: CheckpointState) -> Prompts:
    """The first caption of each image, whose tokens the dataset has."""
    assert isinstance(dataset, (PreparedDataset, UViTDataset))  # others store no tokens
    record = dataset.manifest.text[name]
    check_sizes(name, record.length, record.dim, model, state)
    if has_other_weights(record.weights, state):
        raise RepaError(
            f"--captions {dataset.folder}: its tokens of {name} were made by other weights than "
            f"those that {state.model} was trained with: give those as --text-encoder-weights, "
            "and its captions are encoded by them"
        )
    texts = _first_captions(dataset) if dataset.manifest.has_captions else None
    files = dataset.manifest.source.fingerprint
    made = record.model_dump(exclude={"truncated", "empty_sha256"})  # which tell of other captions

    def empty() -> Tensor:
        return torch.from_numpy(dataset.empty_text(name).copy())

    return Prompts(
        count=len(dataset),
        texts=texts,
        tokens=of_captions(dataset, range(len(dataset)), name, None),
        empty=empty,
        fingerprint=_hash(["stored", name, made, files if texts is None else texts]),
        cut=lambda: _stored_cut(dataset, name),
    )


def _stored_cut(dataset: PreparedDataset | UViTDataset, name: str) -> str | None:
    """What `prepare` has counted, of all captions."""
    record = dataset.manifest.text[name]
    if not record.truncated:
        return None
    return (
        f"{record.truncated:,} captions of {dataset.folder}, counting all of each image, were "
        f"longer than {record.length} tokens and are cut"
    )


def _hash(decisive: list[Any]) -> str:
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
