"""The endless sequence of samples that training sees.

A visit is a sample's place in the whole run, counted over all steps and processes. The visit alone
decides which image it is and which random numbers go with it: order, noise, time, label dropout.
Starting again at a step is starting at its first visit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from repa.data.prepared import PreparedDataset
from repa.randomness import Purpose, standard_normal, stream


class Visits(Dataset):
    """A prepared dataset indexed by visit, with the random numbers of each.

    Item: `label`, `noise` (C, H, W), `time_uniform` and `drop_uniform` in [0, 1); of the dataset's
    arrays `latent` with `posterior_noise`, and `features.NAME` and `image` where wanted.

    Args:
        dataset: the images.
        seed: of order and random numbers.
        keys: which of the dataset's arrays to read.
    """

    def __init__(self, dataset: PreparedDataset, seed: int, keys: set[str]):
        self.dataset = dataset
        self.seed = seed
        self.keys = keys
        self.latent_shape = dataset.manifest.autoencoder.latent_shape

    def __getitem__(self, visit: int) -> dict[str, Any]:
        epoch, position = divmod(visit, len(self.dataset))
        arrays = self.dataset[_order(self.seed, epoch, len(self.dataset))[position]]
        sample: dict[str, Any] = {
            key: np.array(value) for key, value in arrays.items() if key in self.keys
        }
        random = stream(self.seed, Purpose.TRAINING, visit)
        sample["time_uniform"], sample["drop_uniform"] = random.random(2, dtype=np.float32)
        sample["noise"] = standard_normal(random, self.latent_shape)
        if "latent" in sample:
            sample["posterior_noise"] = standard_normal(random, self.latent_shape)
        return sample


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
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
    )


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return stream(seed, Purpose.SHUFFLE, epoch).permutation(count)
