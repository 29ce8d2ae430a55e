"""Frozen target encoders by name: `create_encoder("dinov2-vit-b", resolution=256)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from repa.encoders.base import Encoder, resample_tokens
from repa.encoders.dinov2 import VARIANTS, DINOv2Encoder
from repa.encoders.efficientnet import EfficientNetEncoder
from repa.errors import RepaError

# A new family of encoders is one file and one line here.
ENCODERS: dict[str, Callable[[str, int, int | None, Path | None], Encoder]] = {
    **{f"efficientnet-lite{i}": EfficientNetEncoder for i in range(3)},
    **{f"dinov2-vit-{letter}": DINOv2Encoder for letter in VARIANTS},
}


def create_encoder(
    name: str, resolution: int = 256, grid_size: int | None = None, weights: Path | None = None
) -> Encoder:
    """The frozen encoder called `name`, ready to use.

    Args:
        name: a key of `ENCODERS`.
        resolution: side of the images in pixels; it decides how finely the encoder looks at them.
        grid_size: tokens along one side of the result: the backbone's. The encoder's own by default
            (16 up to 256 px, 32 at 512 px).
        weights: file or folder with the weights, for encoders that have no package of their own.

    Returns:
        Module from images (N, 3, H, W) uint8 to tokens (N, grid_size^2, D).

    Raises:
        RepaError: if there is no such encoder or its weights cannot be had.
    """
    if check_encoder_names(name) != [name]:
        raise RepaError(f"expected the name of one encoder; got {name!r}")
    # Networks draw random weights before the real ones replace them.
    with torch.random.fork_rng(devices=[]):
        return ENCODERS[name](name, resolution, grid_size, weights)


def check_encoder_names(names: str) -> list[str]:
    """The encoders in a comma-separated `--enc-type`; none for "none".

    Raises:
        RepaError: if one is unknown.
    """
    if names == "none":
        return []
    for name in names.split(","):
        if name not in ENCODERS:
            raise RepaError(
                f"unknown encoder {name!r} (--enc-type); choose from {', '.join(ENCODERS)}, or none"
            )
    return names.split(",")


__all__ = ["ENCODERS", "Encoder", "check_encoder_names", "create_encoder", "resample_tokens"]
