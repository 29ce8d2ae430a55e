"""`repa prepare`: from a source of images to a prepared dataset, resumable at any moment.

What a shard has is written in its own record. So any number of processes can share the work, and a
later run goes on wherever an earlier one ended: with the shards that are not there, or with latents
and features that shards lack.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import PartialState

from repa.autoencoders import Autoencoder
from repa.config import Precision
from repa.data.encode import Encode, encoding_jobs
from repa.data.features import FeatureDtype
from repa.data.format import (
    SHARD_ITEMS,
    AutoencoderRecord,
    FeatureRecord,
    Manifest,
    SourceRecord,
    read_manifest,
)
from repa.data.share import Share, Work
from repa.data.sources import Source, Stream
from repa.data.state import begin, finish
from repa.encoders import Encoder
from repa.errors import RepaError

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
) -> Manifest:
    """Crops, encodes and writes a source, continuing where an earlier run of the same job stopped.

    A dataset of the same source that lacks the latents or features asked for gets them.

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

    Returns:
        The manifest of the complete dataset.

    Raises:
        RepaError: if `dest` holds another dataset or other files, or no item is an image.
    """
    if isinstance(source, Stream):
        items, has_captions = None, source.has_captions
    else:
        items = len(source.items)
        has_captions = any(item.captions for item in source.items)
    wanted = Manifest(
        source=SourceRecord(name=source.name, items=items, fingerprint=source.fingerprint),
        resolution=resolution,
        autoencoder=_autoencoder_record(autoencoder, resolution),
        unfinished_features=_feature_records(encoders, feature_dtype, precision),
        classes=source.classes,
        has_captions=has_captions,
        max_images=max_images,
        shard_items=SHARD_ITEMS,
    )
    jobs = encoding_jobs(autoencoder, encoders, feature_dtype, precision)
    return _make(dest, wanted, source, jobs, work)


def extend(
    dest: Path,
    autoencoder: Autoencoder | None,
    encoders: dict[str, Encoder],
    work: Work = DEFAULT_WORK,
    feature_dtype: FeatureDtype = "float16",
    precision: Precision = "no",
) -> Manifest:
    """Adds latents or features to a prepared dataset, from the images in it.

    Args and errors as in `prepare`; without an autoencoder latents stay as they are.
    """
    found = read_manifest(dest)
    if found is None:
        raise RepaError(f"no prepared dataset in {dest}; give --source to make one")
    wanted = found.model_copy(
        update={"unfinished_features": _feature_records(encoders, feature_dtype, precision)}
    )
    if autoencoder is not None:
        record = _autoencoder_record(autoencoder, found.resolution)
        wanted = wanted.model_copy(update={"autoencoder": record})
    jobs = encoding_jobs(autoencoder, encoders, feature_dtype, precision)
    return _make(dest, wanted, None, jobs, work)


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


def _make(
    dest: Path,
    wanted: Manifest,
    source: Source | Stream | None,
    jobs: dict[str, Encode],
    work: Work,
) -> Manifest:
    """Makes `dest` what `wanted` says, the shards shared among the processes there are."""
    state = PartialState(cpu=torch.device(work.device).type == "cpu")
    is_new = not dest.exists()
    try:
        if state.is_main_process:
            begin(dest, wanted, source, jobs)
        state.wait_for_everyone()
        Share(dest, source, state.process_index, state.num_processes).fill(jobs, work)
        state.wait_for_everyone()
        if state.is_main_process:
            finish(dest, is_new)
        state.wait_for_everyone()
    except OSError as error:
        raise RepaError(f"cannot write to --dest {dest}: {error}") from None
    finished = read_manifest(dest)
    assert finished is not None
    return finished
