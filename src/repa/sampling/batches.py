"""Which images a process draws, batch by batch, with their labels and noise."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repa.sampling.noise import ImageNoise, Noise, OfficialStream


@dataclass(frozen=True)
class SampleBatch:
    """One batch to draw.

    Attributes:
        indices: the images' indices. They may be fewer than the batch: the last rows are then
            drawn only because the release draws them, or for the batch to be of a given size.
        labels: (N,), int64.
        noise: of the batch.
    """

    indices: range
    labels: Tensor
    noise: Noise


def image_batches(
    missing: Iterable[int],
    labels: np.ndarray,
    seed: int,
    batch_size: int,
    shape: tuple[int, int, int],
    device: torch.device,
    process: int = 0,
    processes: int = 1,
    equal: bool = False,
) -> Iterator[SampleBatch]:
    """Every `processes`-th batch of the missing images, beginning with the process's own number.

    Args:
        missing: indices to draw, in order.
        labels: of all images.
        seed: of the noise.
        batch_size: images a batch, at most.
        shape: (C, H, W) of the latents.
        device: of the noise.
        process, processes: this process and their number.
        equal: whether all batches are as long as the longest, with rows beyond their indices.
    """
    chosen = consecutive(missing, batch_size)[process::processes]
    longest = max(map(len, chosen), default=0)
    for indices in chosen:
        rows = range(indices.start, indices.start + longest) if equal else indices
        y = torch.from_numpy(np.take(labels, rows, mode="clip").astype(np.int64))
        yield SampleBatch(indices, y, ImageNoise(seed, rows, shape, device))


def official_batches(
    missing: Collection[int],
    count: int,
    labels: np.ndarray | None,
    random: OfficialStream,
    step_noises: int,
    process: int = 0,
    processes: int = 1,
) -> Iterator[SampleBatch]:
    """The batches that this process of the release's generate.py draws.

    Image i of batch k of process r has index `(k N + i) processes + r`. Batches whose images are
    there take their numbers from the stream and are skipped.

    Args:
        missing: indices to draw.
        count: number of images; the release draws full batches and drops what is beyond.
        labels: of all images, instead of the stream's.
        random: the process's stream.
        step_noises: how often the sampler asks for noise after the first.
        process, processes: this process and their number.
    """
    wanted, size = set(missing), random.batch_shape[0]
    for first in range(0, count, size * processes):
        y = random.next_batch()
        indices = range(first + process, min(first + size * processes, count), processes)
        if wanted.isdisjoint(indices):
            random.skip(step_noises)
            continue
        if labels is not None:
            y[: len(indices)] = torch.from_numpy(labels[indices])
        yield SampleBatch(indices, y, random)


def consecutive(indices: Iterable[int], size: int) -> list[range]:
    """Indices in order as ranges of consecutive ones, at most `size` long."""
    found: list[range] = []
    for index in indices:
        if found and found[-1].stop == index and len(found[-1]) < size:
            found[-1] = range(found[-1].start, index + 1)
        else:
            found.append(range(index, index + 1))
    return found
