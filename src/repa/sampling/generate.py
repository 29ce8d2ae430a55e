"""Images from a model: what previews, demo and `repa sample` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from repa.autoencoders import Autoencoder
from repa.config import Precision, SamplerOptions
from repa.devices import autocast
from repa.diffusion import GuidedVelocity, Interpolant, sample_ode, sample_sde
from repa.models import SiT
from repa.randomness import Purpose, standard_normal, stream


def generate_latents(
    model: SiT,
    labels: Tensor,
    indices: Sequence[int],
    sampler: SamplerOptions,
    seed: int,
    interpolant: Interpolant,
    precision: Precision = "no",
) -> Tensor:
    """Latents of the images with the given indices.

    Image i starts from noise that `seed` and i determine, whatever else is in the batch.

    Args:
        model: the backbone, on its device.
        labels: classes (N,), int64.
        indices: the images' indices, N of them.
        sampler: method, steps and guidance.
        seed: of the noise.
        interpolant: path that the model was trained on.
        precision: of the model's evaluations.

    Returns:
        (N, C, H, W), float64.
    """
    device = model.device
    shape = (model.in_channels, model.input_size, model.input_size)
    randoms = [stream(seed, Purpose.SAMPLING, index) for index in indices]

    def draw(step: int = 0) -> Tensor:
        return torch.from_numpy(np.stack([standard_normal(r, shape) for r in randoms])).to(device)

    def evaluate(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(precision, device):
            return model(x, t, y)

    labels = labels.to(device)
    guided = sampler.cfg_scale > 1
    velocity = GuidedVelocity(
        evaluate,
        labels,
        torch.full_like(labels, model.null_class) if guided else None,
        sampler.cfg_scale,
        sampler.guidance_low,
        sampler.guidance_high,
    )
    if sampler.mode == "ode":
        return sample_ode(velocity, draw(), sampler.num_steps, sampler.heun)
    return sample_sde(velocity, draw(), sampler.num_steps, interpolant, draw)


def generate_images(
    model: SiT,
    autoencoder: Autoencoder,
    labels: np.ndarray,
    sampler: SamplerOptions,
    seed: int,
    interpolant: Interpolant,
    batch_size: int,
    precision: Precision = "no",
) -> Iterator[Tensor]:
    """Batches of images (n, 3, R, R), uint8 on the CPU: image i has class `labels[i]`."""
    for start in range(0, len(labels), batch_size):
        indices = range(start, min(start + batch_size, len(labels)))
        y = torch.from_numpy(np.asarray(labels[start : indices.stop], np.int64))
        latents = generate_latents(model, y, indices, sampler, seed, interpolant, precision)
        yield autoencoder.decode(latents.float()).cpu()


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Saves images (N, 3, R, R) uint8 as one PNG, `columns` a row, a white pixel between them."""
    n, _, r, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (r + 1) - 1, columns * (r + 1) - 1, 3), 255, np.uint8)
    for i, pixels in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = i // columns * (r + 1), i % columns * (r + 1)
        sheet[top : top + r, left : left + r] = pixels
    Image.fromarray(sheet).save(path)
