"""Where a text-to-image model's texts come from: stored tokens, or captions and their encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repa.config import TrainOptions
from repa.data import ImageDataset
from repa.data.format import TextRecord
from repa.errors import RepaError
from repa.sampling.conditions import Conditions, of_captions, of_labels
from repa.text import TextEncoder, create_text_encoder


@dataclass(frozen=True)
class Texts:
    """The texts of a run.

    Attributes:
        name: of the text encoder.
        record: the text encoder's sizes and fingerprint.
        empty: tokens of the empty text (L, D), float32.
        encoder: computes the tokens of captions; None where the dataset has them stored.
    """

    name: str
    record: TextRecord
    empty: Tensor
    encoder: TextEncoder | None

    def conditions(self, dataset: ImageDataset, images: Sequence[int]) -> Conditions:
        """The first captions of some images of the run's dataset."""
        return of_captions(dataset, images, self.name, self.encoder)


def open_texts(options: TrainOptions, dataset: ImageDataset, device: torch.device) -> Texts | None:
    """The texts for the model, or None for one that takes classes.

    Raises:
        RepaError: if the dataset has neither tokens of the text encoder nor captions, or the text
            encoder cannot be had.
    """
    name = options.text_encoder
    if name is None:
        return None
    manifest = dataset.manifest
    if name in manifest.text:
        empty = torch.from_numpy(dataset.empty_text(name).copy()).float()
        return Texts(name, manifest.text[name], empty, None)
    if not manifest.has_captions:
        stored = ", ".join(manifest.text) or "no captions"
        raise RepaError(f"--text-enc-type {name}: {options.data_dir} has {stored}")
    encoder = create_text_encoder(name, options.text_encoder_weights).to(device)
    record = TextRecord(
        length=encoder.length,
        dim=encoder.dim,
        mask_padding=encoder.mask_padding,
        weights=encoder.fingerprint,
    )
    return Texts(name, record, encoder([""])[0].cpu(), encoder)


def conditions_of(dataset: ImageDataset, images: Sequence[int], texts: Texts | None) -> Conditions:
    """What samples like some of the dataset's images are drawn for: their texts, or classes."""
    return texts.conditions(dataset, images) if texts else of_labels(dataset.labels[list(images)])
