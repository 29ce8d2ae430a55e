"""The release's own code, run as its scripts run it, from a checkout of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from repa.config import SamplerOptions
from repa.encoders.base import IMAGENET_MEAN, IMAGENET_STD
from repa.models.transformer import SIZES

LATENT_SCALE = 0.18215
DECAY = 0.9999


def release_model(checkout: Path, name: str, dim: int = 768) -> nn.Module:
    """The release's model with a projection head to tokens of that width."""
    sys.path.insert(0, str(checkout))
    from models.sit import SiT_models  # type: ignore[import-not-found]

    arguments: dict[str, Any] = {"fused_attn": True, "qk_norm": False}
    width = SIZES[name.split("-")[1].split("/")[0]][1]
    if width == 384:  # the release's S models do not run: their last layer is 768 wide
        arguments["decoder_hidden_size"] = width
    model: nn.Module = SiT_models[name](
        input_size=32, num_classes=1000, use_cfg=True, z_dims=[dim], encoder_depth=8, **arguments
    )
    return model


def release_sampler(
    checkout: Path, name: str, weights: dict[str, Tensor], sampler: SamplerOptions
) -> tuple[nn.Module, Callable[[Callable[..., Any], Tensor, Tensor], Tensor]]:
    """The release's model with our weights, and its sampler.

    Args:
        checkout: of the release.
        name: of the model.
        weights: of our model of that name, which has no head.
        sampler: mode, steps and guidance.

    Returns:
        The model, and `sample(model, noise, labels)` from noise (N, 4, 32, 32) and classes (N,) to
        latents (N, 4, 32, 32), float64.
    """
    model = release_model(checkout, name).eval()
    lacking, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown, unknown
    assert all(key.startswith("projectors.") for key in lacking), lacking
    import samplers  # type: ignore[import-not-found]

    ways = {"ode": samplers.euler_sampler, "sde": samplers.euler_maruyama_sampler}
    sample = partial(
        ways[str(sampler.mode)],
        num_steps=sampler.num_steps,
        cfg_scale=sampler.cfg_scale,
        guidance_low=sampler.guidance_low,
        guidance_high=sampler.guidance_high,
        path_type="linear",
    )
    return model, sample


def release_step(
    checkout: Path,
    name: str,
    precision: str,
    batch: dict[str, Tensor],
    tokens: Tensor | None,
    encoder: Any,
    tf32: bool,
) -> Callable[[], None]:
    """A step as its training loop takes it, with its defaults, on the same batch each time.

    Args:
        checkout: of the release.
        name: of the model.
        precision: of accelerate: "no", "fp16" or "bf16".
        batch: `image` (N, 3, 256, 256) uint8, `latent` (N, 8, 32, 32), mean and deviation, and
            `label` (N,).
        tokens: the encoder's (N, T, D), where they are not to be computed.
        encoder: timm's network that computes them otherwise; the release takes the same
            architecture from a hub.
        tf32: for matrix products in float32 (its `--allow-tf32`).
    """
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    device = accelerator.device
    torch.backends.cuda.matmul.allow_tf32 = tf32
    dim = encoder.num_features if tokens is None else tokens.shape[-1]
    model = release_model(checkout, name, int(dim)).to(device)
    from loss import SILoss  # type: ignore[import-not-found]

    ema = deepcopy(model).requires_grad_(False).eval()
    loss_of = SILoss(encoders=[encoder], accelerator=accelerator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    bare = model.train()
    model, optimizer = accelerator.prepare(model, optimizer)
    if encoder is not None:
        encoder = encoder.to(device).eval()

    def step() -> None:
        image, label = batch["image"].to(device), batch["label"].to(device)
        with torch.no_grad():
            mean, std = batch["latent"].to(device).chunk(2, dim=1)
            x = (mean + std * torch.randn_like(mean)) * LATENT_SCALE
            with accelerator.autocast():
                z = tokens.to(device) if tokens is not None else _tokens(encoder, image)
        with accelerator.accumulate(model):
            denoising, alignment = loss_of(model, x, {"y": label}, zs=[z])
            loss, alignment = denoising.mean(), alignment.mean()
            accelerator.backward(loss + 0.5 * alignment)
            norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            averages = dict(ema.named_parameters())
            for key, weight in bare.named_parameters():
                averages[key].mul_(DECAY).add_(weight.data, alpha=1 - DECAY)
        for value in (loss, alignment, norm):  # it logs each step
            accelerator.gather(value).mean().item()

    return step


def _tokens(encoder: Any, image: Tensor) -> Tensor:
    """DINOv2's, as the release pre-processes for it."""
    mean, std = (
        torch.tensor(v, device=image.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    x = F.interpolate((image / 255.0 - mean) / std, 224, mode="bicubic")
    found: Tensor = encoder.forward_features(x)[:, encoder.num_prefix_tokens :]
    return found
