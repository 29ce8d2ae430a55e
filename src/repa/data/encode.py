"""Second half of preparing: a shard's images to latents and features, its captions to text."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders import SDVAE, Autoencoder
from repa.config import Precision
from repa.data.arrays import ArrayWriter, checksum, close_writers, map_array
from repa.data.features import FEATURES, FeatureDtype, pack_features
from repa.data.format import CAPTIONS, AutoencoderRecord, ShardRecord, read_captions, write_record
from repa.data.text import STARTS, caption_starts, empty_text_file, pack_text, text_array
from repa.devices import autocast
from repa.encoders import Encoder
from repa.errors import RepaError
from repa.files import replacing

if TYPE_CHECKING:
    from repa.text import TextEncoder  # which imports this package

IMAGES = "images.npy"
WRITES_AHEAD = 2  # batches encoded while an earlier one is written


@dataclass(frozen=True)
class Job:
    """How to compute something that a shard should have.

    Attributes:
        reads: the shard's file that it is computed from, IMAGES or CAPTIONS.
        encode: from images (n, 3, R, R) uint8, or a list of n captions, to the arrays to store,
            (n, ...) each, by name.
        text_encoder: of a job that reads captions.
    """

    reads: str
    encode: Callable[[Any], dict[str, Tensor]]
    text_encoder: TextEncoder | None = None


def encoding_jobs(
    autoencoder: Autoencoder | AutoencoderRecord | None,
    encoders: Mapping[str, Encoder],
    dtype: FeatureDtype,
    precision: Precision,
) -> dict[str, Job]:
    """What to compute from images, by the name of the (first) array that it gives.

    Pixels, and latents that the source has, need no computing. Latents are in float32 whatever the
    precision: SD-VAE overflows in float16.
    """
    jobs: dict[str, Job] = {}
    if isinstance(autoencoder, SDVAE):
        jobs["latents"] = Job(IMAGES, partial(_encode_latents, autoencoder))
    for name, encoder in encoders.items():
        encode = partial(_encode_features, encoder, dtype, precision)
        jobs[FEATURES + name] = Job(IMAGES, encode)
    return jobs


def text_jobs(
    text_encoders: Sequence[TextEncoder], precision: Precision, device: torch.device | str
) -> dict[str, Job]:
    """What to compute from captions, by the name of the array that it gives."""
    jobs = {}
    for encoder in text_encoders:
        encode = partial(_encode_text, encoder, precision, torch.device(device))
        jobs[text_array(encoder.name)] = Job(CAPTIONS, encode, encoder)
    return jobs


def _encode_latents(autoencoder: SDVAE, images: Tensor) -> dict[str, Tensor]:
    return {"latents": autoencoder.encode(images).float()}


def _encode_features(
    encoder: Encoder, dtype: FeatureDtype, precision: Precision, images: Tensor
) -> dict[str, Tensor]:
    with autocast(precision, images.device):
        tokens = encoder(images)
    return pack_features(encoder.name, tokens, dtype)


def _encode_text(
    encoder: TextEncoder, precision: Precision, device: torch.device, captions: list[str]
) -> dict[str, Tensor]:
    with autocast(precision, device):
        tokens = encoder(captions)
    return {text_array(encoder.name): pack_text(tokens)}


def missing_jobs(jobs: Mapping[str, Job], record: ShardRecord) -> dict[str, Job]:
    """The jobs whose arrays a shard lacks: none without images, and no text without captions."""
    if not record.images:
        return {}
    there = {IMAGES, *record.sha256}
    return {n: job for n, job in jobs.items() if f"{n}.npy" not in there and job.reads in there}


def check_inputs(folder: Path, record: ShardRecord, jobs: Mapping[str, Job]) -> None:
    """Whether what jobs read is what was written: a damaged shard is not encoded.

    Raises:
        RepaError: if it is not.
    """
    for name in sorted({job.reads for job in missing_jobs(jobs, record).values()}):
        try:
            is_whole = checksum(folder / name) == record.sha256[name]
        except (OSError, KeyError):
            is_whole = False
        if not is_whole:
            raise RepaError(
                f"damaged dataset: {folder / name} is not what was written; delete {folder} "
                "and run the same `repa prepare --source` again"
            )


class Stopped(Exception):  # noqa: N818
    """Another thread asked the encoding to end."""


@torch.inference_mode()
def encode_shard(
    folder: Path,
    record: ShardRecord,
    jobs: Mapping[str, Job],
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
        batch_size: images at a time, or all captions of so many.
        device: where the jobs run.
        advance: told the number of images of each batch.
        stop: ends the work at the next batch, with `Stopped`.

    Returns:
        The new record.
    """
    missing = missing_jobs(jobs, record)
    if not missing:
        advance(record.images)
        return record
    inputs = _Inputs(folder, record, missing)
    writers: dict[str, ArrayWriter] = {}

    def write(arrays: Mapping[str, Tensor], expected_rows: int) -> None:
        for name, array in arrays.items():
            if name not in writers:
                writers[name] = ArrayWriter(folder / f"{name}.npy.partial", expected_rows)
            writers[name].append(array.cpu().numpy())

    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future] = deque()
        for count, batch in inputs.batches(batch_size, device):
            if stop.is_set():
                raise Stopped
            for job in missing.values():
                if len(batch[job.reads]):  # these images may have no captions
                    arrays = job.encode(batch[job.reads])
                    pending.append(pool.submit(write, arrays, inputs.rows[job.reads]))
            while len(pending) > WRITES_AHEAD * len(missing):
                pending.popleft().result()
            advance(count)
        for future in pending:
            future.result()
    if inputs.captions is not None:
        write({STARTS: torch.from_numpy(inputs.starts)}, len(inputs.starts))
    return _enter(folder, record, close_writers(writers), inputs.truncated(missing))


@torch.inference_mode()
def write_empty_texts(dest: Path, jobs: Mapping[str, Job]) -> dict[str, str]:
    """Writes the empty captions that a dataset lacks.

    Returns:
        The SHA-256 of each file written, by the text encoder.
    """
    written = {}
    for job in jobs.values():
        if job.text_encoder is None:
            continue
        path = dest / empty_text_file(job.text_encoder.name)
        if not path.exists():
            [tokens] = job.encode([""]).values()
            with replacing(path) as file:
                np.save(file, tokens[0].cpu().numpy())
            written[job.text_encoder.name] = checksum(path)
    return written


class _Inputs:
    """What the jobs read of a shard.

    Attributes:
        captions: of each image; None if no job reads them.
        starts: where each image's captions start, (n + 1,) int64.
        rows: how many inputs there are, by the file.

    Raises:
        RepaError: if a file is not what such files are.
    """

    def __init__(self, folder: Path, record: ShardRecord, jobs: Mapping[str, Job]):
        reads = {job.reads for job in jobs.values()}
        self._images = _map_images(folder / IMAGES, record) if IMAGES in reads else None
        self.captions: list[list[str]] | None = None
        if CAPTIONS in reads:
            self.captions = read_captions(folder, record.images)
        self.starts = caption_starts(self.captions or [])
        self.rows = {IMAGES: record.images, CAPTIONS: int(self.starts[-1])}

    def batches(
        self, batch_size: int, device: torch.device | str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number of images of each batch, and by file the images or all their captions."""
        total = self.rows[IMAGES]
        for start in range(0, total, batch_size):
            part = slice(start, start + batch_size)
            batch: dict[str, Any] = {}
            if self._images is not None:
                batch[IMAGES] = torch.tensor(self._images[part]).to(device)
            if self.captions is not None:
                batch[CAPTIONS] = list(chain.from_iterable(self.captions[part]))
            yield min(batch_size, total - start), batch

    def truncated(self, jobs: Mapping[str, Job]) -> dict[str, int]:
        """How many captions each job's text encoder cuts, by its name."""
        captions = list(chain.from_iterable(self.captions or []))
        encoders = [job.text_encoder for job in jobs.values() if job.text_encoder is not None]
        return {e.name: sum(n > e.length for n in e.lengths(captions)) for e in encoders}


def _map_images(path: Path, record: ShardRecord) -> np.ndarray:
    """A shard's images (n, 3, R, R), uint8; checksums that fit do not say that they are such."""
    try:
        images = map_array(path)
        if images.dtype != np.uint8 or images.shape[:2] != (record.images, 3) or images.ndim != 4:
            raise ValueError(
                f"{images.dtype} {images.shape}; expected uint8 ({record.images}, 3, R, R)"
            )
    except Exception as error:  # whatever numpy makes of broken bytes
        raise RepaError(f"damaged dataset: {path}: {error}") from None
    return images


def _enter(
    folder: Path, record: ShardRecord, added: dict[str, str], truncated: dict[str, int]
) -> ShardRecord:
    """Renames new files into place and enters them, by SHA-256, into the shard's record."""
    for name in added:
        (folder / f"{name}.partial").replace(folder / name)
    record = record.model_copy(
        update={
            "sha256": dict(sorted((record.sha256 | added).items())),
            "truncated": dict(sorted((record.truncated | truncated).items())),
        }
    )
    write_record(folder, record)
    return record
