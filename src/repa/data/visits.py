"""The endless sequence of samples that training sees.

A visit is a sample's place in the whole run, counted over all steps and processes. The visit alone
decides which image it is and which random numbers go with it: order, noise, time, label dropout.
Starting again at a step is starting at its first visit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from repa.data import ImageDataset
from repa.randomness import Purpose, standard_normal, stream


class Visits(Dataset):
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

    def __getitems__(self, visits: Sequence[int]) -> dict[str, Tensor]:
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


class ProcessBatches(Sampler[list[int]]):
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


def visit_loader(visits: Visits, batches: ProcessBatches, num_workers: int) -> DataLoader:
    """Batches of visits as dictionaries of tensors, pinned where there is CUDA."""
    return DataLoader(
        visits,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=dict,  # as it is: read as one
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
    )


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return stream(seed, Purpose.SHUFFLE, epoch).permutation(count)
