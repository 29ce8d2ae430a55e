"""Images from a model: what previews, demo and `repa sample` share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from repa.autoencoders import Autoencoder
from repa.config import Precision, SamplerOptions
from repa.devices import autocast
from repa.diffusion import GuidedModel, Objective
from repa.errors import RepaError
from repa.models import Backbone
from repa.sampling.conditions import Conditions
from repa.sampling.noise import ImageNoise, Noise
from repa.sampling.transfer import to_device

RELEASED_GUIDED_CHANNELS = 3  # of the four that DiT predicts the noise of


def latent_shape(model: Backbone) -> tuple[int, int, int]:
    """(C, H, W) of the model's input."""
    return (model.in_channels, model.input_size, model.input_size)


def pick_mode(objective: Objective, sampler: SamplerOptions, prefix: str = "--") -> str:
    """The sampler of a model: as asked for, else its objective's default.

    Args:
        objective: of the model.
        sampler: what was asked for.
        prefix: of the options' names in messages.

    Raises:
        RepaError: if it is of another objective, or is to take more steps than it can.
    """
    if sampler.mode not in (None, *objective.modes):
        raise RepaError(
            f"{prefix}mode {sampler.mode}: the model has {' and '.join(objective.modes)}"
        )
    if sampler.num_steps > objective.most_steps:
        most = int(objective.most_steps)
        raise RepaError(f"{prefix}num-steps {sampler.num_steps}: the model's process has {most}")
    return sampler.mode or objective.modes[0]


def cast_weights(model: nn.Module, precision: Precision) -> None:
    """Gives matrix products and convolutions their weights in that precision, once and for all.

    Autocast would make the same numbers of them at each evaluation. All else stays in float32.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and dtype is not None:
            module.to(dtype)


def generate_latents(
    model: Backbone,
    condition: Tensor,
    noise: Noise,
    sampler: SamplerOptions,
    objective: Objective,
    precision: Precision = "no",
) -> Tensor:
    """Latents of one batch of images.

    The model is evaluated once a step (twice with Heun), on 2 N inputs where guidance applies and
    on N elsewhere.

    Args:
        model: the backbone, on its device.
        condition: labels (N,) or texts (N, L, D), as the model takes them.
        noise: of the batch.
        sampler: method, steps and guidance.
        objective: that the model was trained for.
        precision: of the model's evaluations.

    Returns:
        (N, C, H, W), float64.

    Raises:
        RepaError: if the objective has no such method, or not so many steps.
    """
    device = model.device

    def evaluate(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(precision, device):
            return model(x, t, y)

    condition = to_device(condition, device)
    predict = GuidedModel(
        evaluate,
        condition,
        model.null_condition(len(condition)) if sampler.cfg_scale > 1 else None,
        sampler.cfg_scale,
        sampler.guidance_low,
        sampler.guidance_high,
        _guided_channels(model, sampler),
    )
    mode = pick_mode(objective, sampler)
    return objective.sample(
        predict, noise.initial(), noise.step, mode, sampler.num_steps, sampler.heun
    )


def generate_images(
    model: Backbone,
    autoencoder: Autoencoder,
    conditions: Conditions,
    indices: range,
    sampler: SamplerOptions,
    seed: int,
    objective: Objective,
    batch_size: int,
    precision: Precision = "no",
) -> Iterator[Tensor]:
    """Batches of the images at `indices` (n, 3, R, R), uint8 on the CPU.

    Image i depends on the seed, its condition and i alone, whatever else is drawn.
    """
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        noise = ImageNoise(seed, batch, latent_shape(model), model.device)
        latents = generate_latents(model, conditions(batch), noise, sampler, objective, precision)
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


def _guided_channels(model: Backbone, sampler: SamplerOptions) -> int | None:
    """How many of the prediction's channels are guided; None is all. Never those of variances."""
    if model.objective == "flow":
        return None
    return model.in_channels if sampler.guide_all_channels else RELEASED_GUIDED_CHANNELS
