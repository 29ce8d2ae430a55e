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

import numpy as np
import torch
from torch import Tensor

from repa.data import ImageDataset
from repa.randomness import Purpose, standard_normal, stream

READ_AHEAD = 4  # batches a thread


class Visits:
    """A prepared dataset read by batches of visits, with the random numbers of each.

    A batch of n: `noise` (n, C, H, W), `time_uniform` and `drop_uniform` (n,) in [0, 1), and those
    of the dataset's arrays that are wanted; with `latent` also `posterior_noise` (n, C, H, W).

    Args:
        dataset: the images.
        seed: of order and random numbers.
        keys: which of the dataset's arrays to read.
    """

    def __init__(self, dataset: ImageDataset, seed: int, keys: set[str]):
        self.dataset = dataset
        self.seed = seed
        self.keys = keys
        self.latent_shape = dataset.manifest.autoencoder.latent_shape

    def read(self, visits: Sequence[int]) -> dict[str, Tensor]:
        """A batch of these visits."""
        arrays = self.dataset.read([self._index(visit) for visit in visits], self.keys)
        arrays |= self._random_numbers(visits)
        return {key: torch.from_numpy(array) for key, array in arrays.items()}

    def _index(self, visit: int) -> int:
        """Which image it is."""
        epoch, position = divmod(visit, len(self.dataset))
        return int(_order(self.seed, epoch, len(self.dataset))[position])

    def _random_numbers(self, visits: Sequence[int]) -> dict[str, np.ndarray]:
        count = len(visits)
        uniform = np.empty((2, count), np.float32)
        noises = {"noise": np.empty((count, *self.latent_shape), np.float32)}
        if "latent" in self.keys:
            noises["posterior_noise"] = np.empty_like(noises["noise"])
        for i, visit in enumerate(visits):
            random = stream(self.seed, Purpose.TRAINING, visit)
            uniform[:, i] = random.random(2, dtype=np.float32)
            for noise in noises.values():
                noise[i] = standard_normal(random, self.latent_shape)
        return {"time_uniform": uniform[0], "drop_uniform": uniform[1], **noises}


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
    visits: Visits, batches: Iterable[list[int]], num_workers: int
) -> Iterator[dict[str, Tensor]]:
    """Batches of visits, in order, read ahead; in pinned memory where there is CUDA.

    Threads read, as that is copying out of mapped files and drawing random numbers, both of which
    let go of Python's lock. Processes would have to hand each batch over through new shared memory,
    which takes longer than to read it (benchmarks/reading.py).

    Args:
        visits: what to read.
        batches: the visits of each batch.
        num_workers: threads; without any, a batch is read when it is asked for.
    """

    def read(batch: list[int]) -> dict[str, Tensor]:
        tensors = visits.read(batch)
        if torch.cuda.is_available():
            tensors = {key: tensor.pin_memory() for key, tensor in tensors.items()}
        return tensors

    if not num_workers:
        yield from map(read, batches)
        return
    pool = ThreadPoolExecutor(num_workers, "read")
    try:
        ahead: deque[Future[dict[str, Tensor]]] = deque()
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
