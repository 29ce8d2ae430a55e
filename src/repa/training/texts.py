"""Where a text-to-image model's texts come from: stored tokens, or captions and their encoder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from repa.config import TrainOptions
from repa.data import ImageDataset
from repa.data.format import TextRecord
from repa.data.share import spread
from repa.errors import RepaError
from repa.sampling.conditions import Conditions, of_captions, of_labels
from repa.text import TextEncoder, create_text_encoder, cut_notice

COUNTED = 1_000  # images, spread over the dataset, whose captions are looked at for their length


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


def open_texts(
    options: TrainOptions, dataset: ImageDataset, accelerator: Accelerator
) -> Texts | None:
    """The texts for the model, or None for one that takes classes.

    Says how many captions are too long, if they are to be encoded; of stored tokens
    `repa prepare` has said it. All processes call it together.

    Raises:
        RepaError: if the dataset has neither tokens of the text encoder nor captions, the text
            encoder cannot be had, or it was asked for with other weights than made the tokens.
    """
    name = options.text_encoder
    if name is None:
        return None
    manifest = dataset.manifest
    if name in manifest.text:
        if options.text_encoder_weights is not None:
            _check_weights(options, manifest.text[name], accelerator)
        empty = torch.from_numpy(dataset.empty_text(name).copy()).float()
        return Texts(name, manifest.text[name], empty, None)
    if not manifest.has_captions:
        raise _nothing_to_encode(options, list(manifest.text))
    encoder = _load(options, accelerator).to(accelerator.device)
    if accelerator.is_main_process:
        _say_what_is_cut(encoder, dataset)
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


def _load(options: TrainOptions, accelerator: Accelerator) -> TextEncoder:
    with accelerator.local_main_process_first():  # the others wait while one downloads it
        return create_text_encoder(options.text_enc_type, options.text_encoder_weights)


def _check_weights(options: TrainOptions, record: TextRecord, accelerator: Accelerator) -> None:
    """Whether `--text-encoder-weights` are those that made the stored tokens."""
    if _load(options, accelerator).fingerprint == record.weights:
        return
    whose = "other" if record.weights else "unknown"
    raise RepaError(
        f"--text-encoder-weights {options.text_encoder_weights}: {options.data_dir} has tokens of "
        f"{options.text_enc_type} by {whose} weights; leave it out to train on these, or prepare "
        "another dataset with it"
    )


def _nothing_to_encode(options: TrainOptions, stored: list[str]) -> RepaError:
    name, folder = options.text_enc_type, options.data_dir
    if stored:
        return RepaError(
            f"--text-enc-type {name}: {folder} has no captions, only the tokens of "
            f"{', '.join(stored)}; choose that"
        )
    return RepaError(
        f"--text-enc-type {name}: {folder} has no captions; prepare a source that has some, with "
        f"`repa prepare --text-enc-type {name}`"
    )


def _say_what_is_cut(encoder: TextEncoder, dataset: ImageDataset) -> None:
    rows = spread(len(dataset), COUNTED)
    captions = [caption for row in rows for caption in dataset.captions(row)]
    what = "captions" if len(rows) == len(dataset) else f"captions of {len(rows):,} images"
    notice = cut_notice(encoder, captions, what)
    if notice is not None:
        print(f"note: {notice}", file=sys.stderr)
