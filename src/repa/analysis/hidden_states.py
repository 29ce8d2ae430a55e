"""Hidden states of a backbone on noisy inputs, one vector an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders import from_uint8, sample_latents
from repa.config import Precision
from repa.data import ImageDataset
from repa.devices import autocast
from repa.diffusion import Objective
from repa.errors import RepaError
from repa.models import Backbone
from repa.randomness import Purpose, standard_normal, stream

# How an image's tokens become one vector: their mean, as in the paper, or one of them. A patch's
# place is drawn for each image, so rows are patches of different images: several of one image
# would be each other's neighbors, which only tells how smooth it is.
Pooling = Literal["mean", "patch"]


@torch.no_grad()
def hidden_states(
    model: Backbone,
    dataset: ImageDataset,
    indices: Sequence[int],
    depths: Sequence[int],
    objective: Objective,
    time: float = 0.5,
    batch_size: int = 64,
    precision: Precision = "no",
    pooling: Pooling = "mean",
) -> Tensor:
    """Pooled hidden states after several blocks, all from one forward pass.

    The model sees each image at the same time, with noise that the image's index alone determines,
    so two models can be compared. It is given the null class, or the empty text: told the true
    one, its hidden states would carry the answer that a probe then reads off.

    Args:
        model: the backbone, on its device.
        dataset: clean images.
        indices: which of them, n.
        depths: L blocks after which to look, from 1.
        objective: that the model was trained for.
        time: in [0, 1]; 0 is data.
        batch_size: images at a time; it changes rounding only.
        precision: of the model's evaluations.
        pooling: see `pool_tokens`.

    Returns:
        (L, n, D), float32 on the CPU, depths and images in the given order.

    Raises:
        RepaError: if the model has no null class or no such block, or does not fit the dataset.
    """
    _check(model, dataset, depths)
    device = model.device
    states = torch.empty(len(depths), len(indices), model.hidden_size)
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        x, noise = _latents_and_noise(dataset, chosen, device)
        t = objective.model_time(time).to(device).expand(len(chosen))
        y = model.null_condition(len(chosen))
        x_t = objective.add_noise(x, noise, t)

        def pool(hidden: Tensor, chosen: Sequence[int] = chosen) -> Tensor:
            return pool_tokens(hidden, chosen, pooling)

        with autocast(precision, device):
            _, pooled = model(x_t, t, y, capture=depths, reduce=pool)
        states[:, start : start + len(chosen)] = torch.stack([pooled[d] for d in depths]).cpu()
    return states


def pool_tokens(tokens: Tensor, indices: Sequence[int], pooling: Pooling) -> Tensor:
    """One vector an image: the mean of its tokens, or the token at a place of its own.

    The place is drawn by the image's index, at the same part of the way through any number of
    tokens: hidden states and targets on grids of one size are taken at the same patch.

    Args:
        tokens: (n, T, D), floating.
        indices: the images' numbers in their dataset, n.
        pooling: "mean" or "patch".

    Returns:
        (n, D), float32, on the tokens' device.
    """
    if pooling == "mean":
        return tokens.float().mean(1)
    count = tokens.shape[1]
    places = [int(count * stream(0, Purpose.PATCHES, i).random()) for i in indices]
    return tokens[torch.arange(len(tokens)), places].float()


def _check(model: Backbone, dataset: ImageDataset, depths: Sequence[int]) -> None:
    missing = [depth for depth in depths if not 1 <= depth <= model.depth]
    if missing:
        raise RepaError(f"no block {missing[0]} to look after: the model has {model.depth}, from 1")
    takes = (model.in_channels, model.input_size, model.input_size)
    has = dataset.manifest.autoencoder.latent_shape
    if takes != has:
        name = dataset.manifest.source.name
        raise RepaError(
            f"the model takes latents of shape {takes}, the dataset of {name} has {has}: "
            "prepare one at the model's resolution, with its autoencoder"
        )


def _latents_and_noise(
    dataset: ImageDataset, indices: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Clean latents of some images and noise for each, (n, C, H, W) on the device."""
    autoencoder = dataset.manifest.autoencoder
    key = "image" if autoencoder.name == "pixel" else "latent"
    clean = torch.from_numpy(dataset.read(indices, [key])[key]).to(device)
    randoms = [stream(0, Purpose.ANALYSIS, i) for i in indices]

    def draw() -> Tensor:
        noise = np.stack([standard_normal(r, autoencoder.latent_shape) for r in randoms])
        return torch.from_numpy(noise).to(device)

    noise = draw()
    if key == "image":
        return from_uint8(clean), noise
    return sample_latents(clean, draw(), autoencoder.scale, autoencoder.shift), noise
