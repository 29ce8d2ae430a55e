"""Noise that decides on an image: from a seed for each, or the release's own stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from repa.randomness import Purpose, standard_normal, stream
from repa.sampling.transfer import to_device


class Noise(Protocol):
    """The standard normal numbers of one batch, asked for in order."""

    def initial(self) -> Tensor:
        """(N, C, H, W), float32: the sampler's first state."""

    def step(self, step: int) -> Tensor:
        """(N, C, H, W), floating: the noise of that step of the SDE."""


class ImageNoise:
    """Noise of which each image's depends on the seed and the image's index alone.

    Args:
        seed: of all images.
        indices: the images' indices, N of them.
        shape: (C, H, W) of the latents.
        device: of the noise. It is drawn on the host: the same numbers for every device.
    """

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
    ):
        self.shape = shape
        self.device = device
        self._streams = [stream(seed, Purpose.SAMPLING, index) for index in indices]

    def initial(self) -> Tensor:
        return self._draw()

    def step(self, step: int) -> Tensor:
        return self._draw()

    def _draw(self) -> Tensor:
        draws = np.stack([standard_normal(random, self.shape) for random in self._streams])
        return to_device(torch.from_numpy(draws), self.device)


class OfficialStream:
    """The random stream of one process of the release's generate.py.

    There each process seeds the device's generator with `seed processes + process`. Every batch
    draws its initial noise (float32), then its labels, then, for the SDE, the noise of each step
    but the last (float64).

    Args:
        seed: the release's --global-seed.
        process, processes: this process and their number.
        batch_shape: (N, C, H, W) of every batch.
        num_classes: labels are drawn from 0 to num_classes - 1.
        device: whose generator is used: the CPU and CUDA give different numbers.
    """

    def __init__(
        self,
        seed: int,
        process: int,
        processes: int,
        batch_shape: tuple[int, int, int, int],
        num_classes: int,
        device: torch.device | str = "cpu",
    ):
        self.batch_shape = batch_shape
        self.num_classes = num_classes
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed * processes + process)
        self._initial = torch.empty(0)

    def next_batch(self) -> Tensor:
        """Begins a batch, whose noise `initial` and `step` then give; returns its labels (N,)."""
        self._initial = self._draw(torch.float32)
        size = (self.batch_shape[0],)
        return torch.randint(
            0, self.num_classes, size, generator=self.generator, device=self.device
        )

    def skip(self, step_noises: int) -> None:
        """Draws what a batch would have drawn after its labels."""
        for step in range(step_noises):
            self.step(step)

    def initial(self) -> Tensor:
        return self._initial

    def step(self, step: int) -> Tensor:
        return self._draw(torch.float64)

    def _draw(self, dtype: torch.dtype) -> Tensor:
        return torch.randn(
            self.batch_shape, generator=self.generator, device=self.device, dtype=dtype
        )
