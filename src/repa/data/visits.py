"""The endless sequence of samples that training sees.

A visit is a sample's place in the whole run, counted over all steps and processes. The visit alone
decides which image it is and which random numbers go with it: order, noise, time, label dropout.
Starting again at a step is starting at its first visit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repa.data import ImageDataset
from repa.data.text import drawn_caption
from repa.errors import RepaError
from repa.randomness import Purpose, standard_normal, stream

READ_AHEAD = 4  # batches a thread
Arrays = dict[str, Any]  # tensors by name, and captions


class Visits:
    """A prepared dataset read by batches of visits, with the random numbers of each.

    A batch of n: `noise` (n, C, H, W), `time_uniform` and `drop_uniform` (n,) in [0, 1), and those
    of the dataset's arrays that are wanted; with `latent` also `posterior_noise` (n, C, H, W), with
    text `context` (n, L, D), the tokens of one of the image's captions, as they are stored, and
    with captions `captions`, the n strings.

    Args:
        dataset: the images.
        seed: of order and random numbers.
        keys: which of the dataset's arrays to read.
        text: the text encoder whose tokens to read, if any.
        captions: read the captions themselves.

    Raises:
        RepaError: if the dataset has no text of that encoder.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        seed: int,
        keys: set[str],
        text: str | None = None,
        captions: bool = False,
    ):
        if text is not None and text not in dataset.manifest.text:
            raise RepaError(
                f"the dataset {dataset.manifest.source.name} has no text of {text}: add it with "
                f"`repa prepare --text-enc-type {text}`"
            )
        self.dataset = dataset
        self.seed = seed
        self.keys = keys
        self.text = text
        self.captions = captions
        self.latent_shape = dataset.manifest.autoencoder.latent_shape

    def index(self, visit: int) -> int:
        """Which image of the dataset a visit is of."""
        epoch, position = divmod(visit, len(self.dataset))
        return int(_order(self.seed, epoch, len(self.dataset))[position])

    def read(self, visits: Sequence[int]) -> Arrays:
        """A batch of these visits."""
        indices = [self.index(visit) for visit in visits]
        arrays = self.dataset.read(indices, self.keys)
        numbers, caption_uniform = self._random_numbers(visits)
        arrays |= numbers
        if self.text is not None:
            arrays["context"] = self.dataset.read_text(self.text, indices, caption_uniform)
        batch: Arrays = {key: torch.from_numpy(array) for key, array in arrays.items()}
        if self.captions:
            every = [self.dataset.captions(index) or [""] for index in indices]
            drawn = zip(every, caption_uniform, strict=True)
            batch["captions"] = [own[drawn_caption(u, len(own))] for own, u in drawn]
        return batch

    def _random_numbers(self, visits: Sequence[int]) -> tuple[dict[str, np.ndarray], list[float]]:
        """What goes into the batch, and the n numbers that draw the captions.

        Those come last, and so change no other number.
        """
        count = len(visits)
        caption_uniform = []
        uniform = np.empty((2, count), np.float32)
        noises = {"noise": np.empty((count, *self.latent_shape), np.float32)}
        if "latent" in self.keys:
            noises["posterior_noise"] = np.empty_like(noises["noise"])
        for i, visit in enumerate(visits):
            random = stream(self.seed, Purpose.TRAINING, visit)
            uniform[:, i] = random.random(2, dtype=np.float32)
            for noise in noises.values():
                noise[i] = standard_normal(random, self.latent_shape)
            caption_uniform.append(random.random())
        numbers = {"time_uniform": uniform[0], "drop_uniform": uniform[1], **noises}
        return numbers, caption_uniform


class ProcessBatches:
    """The visits of one process's batches, from a step on.

    A step's visits are split evenly and in order: process r of P takes the r-th part.

    Args:
        batch_size: samples a step over all processes, divisible by `processes`.
        first_visit: where to start.
        num_batches: how many batches to give.
        process, processes: this process and their number.
    """

    def __init__(
        self, batch_size: int, first_visit: int, num_batches: int, process: int, processes: int
    ):
        self.batch_size = batch_size
        self.first_visit = first_visit
        self.num_batches = num_batches
        self.process = process
        self.local = batch_size // processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.num_batches):
            first = self.first_visit + batch * self.batch_size + self.process * self.local
            yield list(range(first, first + self.local))

    def __len__(self) -> int:
        return self.num_batches


def visit_loader(
    visits: Visits, batches: Iterable[list[int]], num_workers: int, pin_memory: bool = False
) -> Iterator[Arrays]:
    """Batches of visits, in order, read ahead.

    Threads read, as that is copying out of mapped files and drawing random numbers, both of which
    let go of Python's lock. Processes would have to hand each batch over through new shared memory,
    which takes longer than to read it (benchmarks/reading.py).

    Args:
        visits: what to read.
        batches: the visits of each batch.
        num_workers: threads; without any, a batch is read when it is asked for.
        pin_memory: whether batches are in pinned memory, which CUDA copies from by itself.
    """

    def read(batch: list[int]) -> Arrays:
        arrays = visits.read(batch)
        if not pin_memory:
            return arrays
        return {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in arrays.items()}

    if not num_workers:
        yield from map(read, batches)
        return
    pool = ThreadPoolExecutor(num_workers, "read")
    try:
        ahead: deque[Future[Arrays]] = deque()
        for batch in batches:
            ahead.append(pool.submit(read, batch))
            if len(ahead) > READ_AHEAD * num_workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return stream(seed, Purpose.SHUFFLE, epoch).permutation(count)
