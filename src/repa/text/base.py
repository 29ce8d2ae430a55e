"""A frozen text encoder: from captions to tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repa.errors import RepaError
from repa.weights import network_fingerprint

SLICE = 64  # captions encoded at a time


class TextEncoder(nn.Module):
    """Frozen network from captions to the last hidden states of their tokens.

    Captions are cut to `length` tokens and padded to it. What else is done to them, such as lower
    case and single blanks, is the tokenizer's.

    Args:
        name: as `create_text_encoder` takes it.
        network: transformers' network, which returns `last_hidden_state`.
        tokenizer: transformers' tokenizer for it.
        length: tokens of every text.
        mask_padding: padding is not attended to and its tokens are zeros. Without it, padding is
            text like any other.

    Attributes:
        name, length, mask_padding: as above.
        dim: width of a token.
    """

    def __init__(self, name: str, network: Any, tokenizer: Any, length: int, mask_padding: bool):
        super().__init__()
        # Slices are too small to gain by threads, which warn when a data loader forks.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.name = name
        self.network = network
        self.tokenizer = tokenizer
        self.dim = int(network.config.hidden_size)
        self.length = length
        self.mask_padding = mask_padding
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> TextEncoder:
        """Stays in evaluation mode, whatever the module around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, captions: Sequence[str]) -> Tensor:
        """Tokens of any number of captions.

        Where mixed precision surrounds it, in bfloat16: T5's feed-forwards leave float16's range.

        Args:
            captions: N strings; "" is the empty caption.

        Returns:
            (N, length, dim), float32, on the network's device.

        Raises:
            RepaError: if a caption is not text, or a token is not finite.
        """
        captions = _checked(captions)
        device = next(self.network.parameters()).device
        tokens = torch.zeros(len(captions), self.length, self.dim, device=device)
        mixed = torch.is_autocast_enabled(device.type)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            for start in range(0, len(captions), SLICE):
                hidden = self._encode(captions[start : start + SLICE], device)
                tokens[start : start + SLICE, : hidden.shape[1]] = hidden
        if not torch.isfinite(tokens).all():
            raise RepaError(
                f"the text encoder {self.name} makes tokens that are not finite: its weights are "
                "broken, put others into a folder and name that with --text-encoder-weights"
            )
        return tokens

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """Tokens that each caption has before it is cut, special tokens included.

        Raises:
            RepaError: if a caption is not text.
        """
        captions = _checked(captions)
        if not captions:  # which the tokenizer cannot count
            return []
        # Quietly: the tokenizer warns of what is longer than the network takes.
        return [len(ids) for ids in self.tokenizer(captions, verbose=False).input_ids]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell these weights from others, whatever file they came in."""
        return network_fingerprint(self.network)

    def _encode(self, captions: list[str], device: torch.device) -> Tensor:
        """(n, T, dim); T is `length`, or that of the longest caption where padding is masked."""
        batch = self.tokenizer(
            captions,
            truncation=True,
            max_length=self.length,
            padding="longest" if self.mask_padding else "max_length",
            return_tensors="pt",
        ).to(device)
        if not self.mask_padding:
            return self.network(input_ids=batch.input_ids).last_hidden_state
        mask = batch.attention_mask
        hidden = self.network(input_ids=batch.input_ids, attention_mask=mask).last_hidden_state
        return hidden.masked_fill(mask[..., None] == 0, 0)


def cut_notice(encoder: TextEncoder, texts: Sequence[str], what: str) -> str | None:
    """How many texts are longer than the encoder takes; None if no text is.

    Args:
        encoder: cuts what is longer.
        texts: N of them.
        what: they are, such as "prompts".

    Returns:
        "2 of 40 prompts are longer than 77 tokens and are cut".

    Raises:
        RepaError: if one is not text.
    """
    count = sum(length > encoder.length for length in encoder.lengths(texts))
    if not count:
        return None
    are = "is" if count == 1 else "are"
    return (
        f"{count:,} of {len(texts):,} {what} {are} longer than {encoder.length} tokens and {are} "
        "cut"
    )


def _checked(captions: Sequence[str]) -> list[str]:
    if isinstance(captions, str):
        raise RepaError(f"expected a list of captions; got one string, {captions[:50]!r}")
    for caption in captions:
        if not isinstance(caption, str):
            raise RepaError(f"expected captions as strings; got a {type(caption).__name__}")
        try:
            caption.encode()
        except UnicodeEncodeError:  # JSON can escape half of a character
            raise RepaError(
                f"the caption {caption[:50]!r} is no valid Unicode; correct it in its source"
            ) from None
    return list(captions)
