"""Average-pooled hidden states of a backbone on noisy inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from repa.autoencoders import from_uint8, sample_latents
from repa.config import Precision
from repa.data import ImageDataset
from repa.devices import autocast
from repa.diffusion import Interpolant
from repa.models import Transformer
from repa.randomness import Purpose, standard_normal, stream


@torch.no_grad()
def pooled_hidden_states(
    model: Transformer,
    dataset: ImageDataset,
    indices: Sequence[int],
    depth: int,
    interpolant: Interpolant,
    time: float = 0.5,
    batch_size: int = 256,
    precision: Precision = "no",
) -> Tensor:
    """Hidden states after a block, averaged over tokens.

    The model sees each image at the same time, with noise that the image's index alone determines,
    so two models can be compared. It is given the null class: told the true one, its hidden states
    would carry the answer that a probe then reads off.

    Args:
        model: the backbone, on its device.
        dataset: clean images.
        indices: which of them, n.
        depth: block after which to look, from 1.
        interpolant: path that the model was trained on.
        time: in [0, 1]; 0 is data.
        batch_size: images at a time.
        precision: of the model's evaluations.

    Returns:
        (n, D), float32 on the CPU.

    Raises:
        RepaError: if the model has no null class.
    """
    device = model.device
    pooled = []
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        x, noise = _latents_and_noise(dataset, chosen, device)
        t = torch.full((len(chosen),), time, device=device)
        y = torch.full((len(chosen),), model.null_class, device=device)
        x_t, _ = interpolant.interpolate(x, noise, t)
        with autocast(precision, device):
            _, hidden = model(x_t, t, y, capture=(depth,))
        pooled.append(hidden[depth].float().mean(1).cpu())
    return torch.cat(pooled)


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
