"""`repa prepare`: from a source of images to a prepared dataset, resumable at any moment.

What a shard has is written in its own record. So any number of processes can share the work, and a
later run goes on wherever an earlier one ended: with the shards that are not there, or with the
latents, features and text that shards lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState

from repa.autoencoders import Autoencoder
from repa.config import Precision
from repa.data.encode import Job, encoding_jobs, text_jobs, write_empty_texts
from repa.data.features import FeatureDtype
from repa.data.format import (
    SHARD_ITEMS,
    AutoencoderRecord,
    FeatureRecord,
    Manifest,
    SourceRecord,
    TextRecord,
    read_manifest,
)
from repa.data.share import Share, Work
from repa.data.sources import Source, Stream
from repa.data.state import begin, finish
from repa.data.text import check_captions
from repa.encoders import Encoder
from repa.errors import RepaError
from repa.locks import only_job
from repa.processes import on_main

if TYPE_CHECKING:
    from repa.text import TextEncoder  # which imports this package

DEFAULT_WORK = Work()


def prepare(
    source: Source | Stream,
    dest: Path,
    resolution: int,
    autoencoder: Autoencoder | AutoencoderRecord,
    encoders: dict[str, Encoder],
    max_images: int | None = None,
    work: Work = DEFAULT_WORK,
    feature_dtype: FeatureDtype = "float16",
    precision: Precision = "no",
    text_encoders: Sequence[TextEncoder] = (),
) -> Manifest:
    """Crops, encodes and writes a source, continuing where an earlier run of the same job stopped.

    A dataset of the same source that lacks the latents, features or text asked for gets them.

    Args:
        source: images with labels.
        dest: folder of the dataset; created if need be.
        resolution: side of the cropped images in pixels.
        autoencoder: makes the latents; pixels have none. A record, if the source has the latents.
        encoders: target encoders whose tokens to cache, by name.
        max_images: use only so many of the source's items: spread evenly over it, or, of a
            stream, the first.
        work: batch size, workers, device.
        feature_dtype: of the cached tokens.
        precision: of the encoders' evaluations; latents are always computed in float32.
        text_encoders: whose tokens of all captions to store.

    Returns:
        The manifest of the complete dataset.

    Raises:
        RepaError: if `dest` holds another dataset or other files, another job works in it, no item
            is an image, or there are text encoders and no captions.
    """
    items = None if isinstance(source, Stream) else len(source.items)
    check_captions([e.name for e in text_encoders], source.name, has_captions(source))
    wanted = Manifest(
        source=SourceRecord(name=source.name, items=items, fingerprint=source.fingerprint),
        resolution=resolution,
        autoencoder=_autoencoder_record(autoencoder, resolution),
        unfinished_features=_feature_records(encoders, feature_dtype, precision),
        unfinished_text=_text_records(text_encoders, precision),
        classes=source.classes,
        has_captions=has_captions(source),
        max_images=max_images,
        shard_items=SHARD_ITEMS,
    )
    jobs = encoding_jobs(autoencoder, encoders, feature_dtype, precision)
    jobs |= text_jobs(text_encoders, precision, work.device)
    return _make(dest, wanted, source, jobs, work)


def extend(
    dest: Path,
    autoencoder: Autoencoder | None,
    encoders: dict[str, Encoder],
    work: Work = DEFAULT_WORK,
    feature_dtype: FeatureDtype = "float16",
    precision: Precision = "no",
    text_encoders: Sequence[TextEncoder] = (),
) -> Manifest:
    """Adds latents, features or text to a prepared dataset, from the images and captions in it.

    Args and errors as in `prepare`; without an autoencoder latents stay as they are.
    """
    found = read_manifest(dest)
    if found is None:
        raise RepaError(f"no prepared dataset in {dest}; give --source to make one")
    check_captions([e.name for e in text_encoders], found.source.name, found.has_captions)
    wanted = found.model_copy(
        update={
            "unfinished_features": _feature_records(encoders, feature_dtype, precision),
            "unfinished_text": _text_records(text_encoders, precision),
        }
    )
    if autoencoder is not None:
        record = _autoencoder_record(autoencoder, found.resolution)
        wanted = wanted.model_copy(update={"autoencoder": record})
    jobs = encoding_jobs(autoencoder, encoders, feature_dtype, precision)
    jobs |= text_jobs(text_encoders, precision, work.device)
    return _make(dest, wanted, None, jobs, work)


def has_captions(source: Source | Stream) -> bool:
    """Whether any of a source's images has a caption."""
    if isinstance(source, Stream):
        return source.has_captions
    return any(item.captions for item in source.items)


def _autoencoder_record(
    autoencoder: Autoencoder | AutoencoderRecord, resolution: int
) -> AutoencoderRecord:
    if isinstance(autoencoder, AutoencoderRecord):
        return autoencoder
    return AutoencoderRecord(
        name=autoencoder.name,
        scale=autoencoder.scale,
        shift=autoencoder.shift,
        latent_shape=autoencoder.latent_shape(resolution),
    )


def _feature_records(
    encoders: dict[str, Encoder], dtype: FeatureDtype, precision: Precision
) -> dict[str, FeatureRecord]:
    return {
        name: FeatureRecord(
            grid_size=encoder.grid_size,
            dim=encoder.dim,
            dtype=dtype,
            precision=precision,
            weights=encoder.fingerprint,
        )
        for name, encoder in encoders.items()
    }


def _text_records(encoders: Sequence[TextEncoder], precision: Precision) -> dict[str, TextRecord]:
    return {
        encoder.name: TextRecord(
            length=encoder.length,
            dim=encoder.dim,
            mask_padding=encoder.mask_padding,
            weights=encoder.fingerprint,
            precision=precision,
        )
        for encoder in encoders
    }


def _make(
    dest: Path,
    wanted: Manifest,
    source: Source | Stream | None,
    jobs: dict[str, Job],
    work: Work,
) -> Manifest:
    """Makes `dest` what `wanted` says, the shards shared among the processes there are."""
    state = PartialState(cpu=torch.device(work.device).type == "cpu")
    empty_texts: dict[str, str] = {}
    try:
        with ExitStack() as stack:
            on_main(state, lambda: stack.enter_context(only_job(dest)))
            if state.is_main_process:
                begin(dest, wanted, source, jobs)
                empty_texts = write_empty_texts(dest, jobs)
            state.wait_for_everyone()
            Share(dest, source, state.process_index, state.num_processes).fill(jobs, work)
            state.wait_for_everyone()
            if state.is_main_process:
                finish(dest, empty_texts)
            state.wait_for_everyone()
    except OSError as error:
        raise RepaError(f"cannot write to --dest {dest}: {error}") from None
    finished = read_manifest(dest)
    assert finished is not None
    return finished
