"""Frozen target encoders by name: `create_encoder("dinov2-vit-b", resolution=256)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from repa.encoders.base import Description, Encoder, Family, resample_tokens
from repa.encoders.efficientnet import EFFICIENTNETS, EfficientNetEncoder
from repa.encoders.pixels import PixelEncoder
from repa.encoders.vit import VITS, ViTEncoder
from repa.errors import RepaError

# A new family of encoders is one file and one line here.
ENCODERS: dict[str, Family] = {
    **dict.fromkeys(EFFICIENTNETS, EfficientNetEncoder),
    **dict.fromkeys(VITS, ViTEncoder),
    "pixels": PixelEncoder,
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


def create_encoders(
    names: Sequence[str],
    resolution: int = 256,
    grid_size: int | None = None,
    weights: Path | None = None,
) -> dict[str, Encoder]:
    """Several encoders by name, each as `create_encoder` makes it.

    Raises:
        RepaError: as there, and if `weights` is one file for more than one encoder.
    """
    if len(names) > 1 and weights is not None and weights.is_file():
        raise RepaError(
            f"{weights} is one file for {len(names)} encoders ({', '.join(names)}): put a file for "
            "each into a folder and give that (--encoder-weights)"
        )
    return {name: create_encoder(name, resolution, grid_size, weights) for name in names}


def check_encoder_names(names: str) -> list[str]:
    """The encoders in a comma-separated `--enc-type`; none for "none".

    Raises:
        RepaError: if one is unknown.
    """
    if names.lower() == "none":  # the release writes None
        return []
    found = [name.strip() for name in names.split(",")]
    for name in found:
        if name not in ENCODERS:
            raise RepaError(
                f"unknown encoder {name!r} (--enc-type); choose from {', '.join(ENCODERS)}, or none"
            )
    return found


__all__ = [
    "ENCODERS",
    "Description",
    "Encoder",
    "check_encoder_names",
    "create_encoder",
    "create_encoders",
    "resample_tokens",
]
