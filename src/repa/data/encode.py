"""Second half of preparing: from a shard's images to its latents and features."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from repa.autoencoders import SDVAE, Autoencoder
from repa.config import Precision
from repa.data.arrays import ArrayWriter, checksum, close_writers, map_array
from repa.data.features import FEATURES, FeatureDtype, pack_features
from repa.data.format import AutoencoderRecord, ShardRecord, write_record
from repa.devices import autocast
from repa.encoders import Encoder
from repa.errors import RepaError

# From images (n, 3, R, R) uint8 to the arrays to store, (n, ...) each, by name.
Encode = Callable[[Tensor], dict[str, Tensor]]
WRITES_AHEAD = 2  # batches encoded while an earlier one is written


def encoding_jobs(
    autoencoder: Autoencoder | AutoencoderRecord | None,
    encoders: Mapping[str, Encoder],
    dtype: FeatureDtype,
    precision: Precision,
) -> dict[str, Encode]:
    """What to compute from images, by the name of the (first) array that it gives.

    Pixels, and latents that the source has, need no computing. Latents are in float32 whatever the
    precision: SD-VAE overflows in float16.
    """
    jobs: dict[str, Encode] = {}
    if isinstance(autoencoder, SDVAE):
        jobs["latents"] = partial(_encode_latents, autoencoder)
    for name, encoder in encoders.items():
        jobs[FEATURES + name] = partial(_encode_features, encoder, dtype, precision)
    return jobs


def _encode_latents(autoencoder: SDVAE, images: Tensor) -> dict[str, Tensor]:
    return {"latents": autoencoder.encode(images).float()}


def _encode_features(
    encoder: Encoder, dtype: FeatureDtype, precision: Precision, images: Tensor
) -> dict[str, Tensor]:
    with autocast(precision, images.device):
        tokens = encoder(images)
    return pack_features(encoder.name, tokens, dtype)


def check_images(folder: Path, record: ShardRecord) -> None:
    """Whether a shard's images are those that were written: a damaged shard is not encoded.

    Raises:
        RepaError: if they are not.
    """
    try:
        is_whole = checksum(folder / "images.npy") == record.sha256["images.npy"]
    except (OSError, KeyError):
        is_whole = False
    if not is_whole:
        raise RepaError(
            f"damaged dataset: {folder / 'images.npy'} is not what was written; delete {folder} "
            "and run the same `repa prepare --source` again"
        )


class Stopped(Exception):  # noqa: N818
    """Another thread asked the encoding to end."""


@torch.inference_mode()
def encode_shard(
    folder: Path,
    record: ShardRecord,
    jobs: Mapping[str, Encode],
    batch_size: int,
    device: torch.device | str,
    advance: Callable[[int], object],
    stop: threading.Event,
) -> ShardRecord:
    """Adds to a shard what its record lacks, and enters it there when whole.

    Writing overlaps with encoding: while the device works on a batch, a thread fetches and writes
    the one before.

    Args:
        folder: the shard's.
        record: what it has.
        jobs: what it should have.
        batch_size: images at a time.
        device: where the jobs run.
        advance: told the number of images of each batch.
        stop: ends the work at the next batch, with `Stopped`.

    Returns:
        The new record.
    """
    missing = [job for name, job in jobs.items() if f"{name}.npy" not in record.sha256]
    if not missing or not record.images:
        advance(record.images)
        return record
    images = map_array(folder / "images.npy")
    writers: dict[str, ArrayWriter] = {}

    def write(arrays: dict[str, Tensor]) -> None:
        for name, array in arrays.items():
            if name not in writers:
                writers[name] = ArrayWriter(folder / f"{name}.npy.partial", record.images)
            writers[name].append(array.cpu().numpy())

    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future] = deque()
        for start in range(0, record.images, batch_size):
            if stop.is_set():
                raise Stopped
            batch = torch.tensor(images[start : start + batch_size]).to(device)
            for job in missing:
                pending.append(pool.submit(write, job(batch)))
            while len(pending) > WRITES_AHEAD * len(missing):
                pending.popleft().result()
            advance(len(batch))
        for future in pending:
            future.result()
    added = close_writers(writers)
    for name in added:
        (folder / f"{name}.partial").replace(folder / name)
    record = record.model_copy(update={"sha256": dict(sorted((record.sha256 | added).items()))})
    write_record(folder, record)
    return record
