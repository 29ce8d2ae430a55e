"""Stored tokens of captions: names of the files, which caption is whose, which one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, unquote

import numpy as np
import torch
from torch import Tensor

from repa.errors import RepaError

TEXT = "text."
STARTS = "text.starts"


def text_array(name: str) -> str:
    """Name of the array that holds the tokens of the text encoder `name`.

    Quoted as in an URL: some text encoders are named after a folder, or a model on a hub.
    """
    return TEXT + quote(name, safe="")


def empty_text_file(name: str) -> str:
    """The file of a dataset that holds the empty caption of the text encoder `name`."""
    return f"{text_array(name)}.empty.npy"


def text_encoder_name(array: str) -> str:
    """The text encoder whose tokens the array of this name holds."""
    return unquote(array.removeprefix(TEXT))


def pack_text(tokens: Tensor) -> Tensor:
    """Tokens, floating, as they are stored: float16, clamped to its range."""
    limit = torch.finfo(torch.float16).max
    return tokens.clamp(-limit, limit).to(torch.float16)


def caption_starts(captions: Sequence[Sequence[str]]) -> np.ndarray:
    """Where each image's captions start when all are in one row: (n + 1,), int64."""
    counts = [len(own) for own in captions]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def drawn_caption(uniform: float, count: int) -> int:
    """Which of `count` captions (at least one) a number in [0, 1) stands for."""
    return min(int(float(uniform) * count), count - 1)


def check_captions(names: Sequence[str], source: str, has_captions: bool) -> None:
    """An error if text features are asked for of a source without captions.

    Raises:
        RepaError: in that case.
    """
    if names and not has_captions:
        raise RepaError(
            f"--text-enc-type {','.join(names)}: {source} has no captions; leave it out, or give a "
            "source that has them: .txt files or a metadata.jsonl beside the images, MS-COCO's "
            "folder, a caption column"
        )
