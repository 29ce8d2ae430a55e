"""DINOv2 (Oquab et al., 2024) through timm, from the hub or from an official file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor

from repa.encoders.base import IMAGENET_MEAN, IMAGENET_STD, Encoder
from repa.encoders.weights import load_weights, read_weights
from repa.errors import RepaError, first_line

PATCH = 14

# letter in our name: (timm's model, official file)
VARIANTS = {
    "s": ("vit_small_patch14_dinov2.lvd142m", "dinov2_vits14_pretrain.pth"),
    "b": ("vit_base_patch14_dinov2.lvd142m", "dinov2_vitb14_pretrain.pth"),
    "l": ("vit_large_patch14_dinov2.lvd142m", "dinov2_vitl14_pretrain.pth"),
    "g": ("vit_giant_patch14_dinov2.lvd142m", "dinov2_vitg14_pretrain.pth"),
}


class DINOv2Encoder(Encoder):
    """Patch tokens after the final norm; 224 px and 16x16 tokens at 256, 448 px and 32x32 at 512.

    Args:
        name: "dinov2-vit-s", "-b", "-l" or "-g".
        resolution: side of the images in pixels.
        grid_size: tokens a side to return, the network's own by default.
        weights: the official file, or a folder that holds it; without it, timm downloads them.
    """

    def __init__(
        self, name: str, resolution: int, grid_size: int | None = None, weights: Path | None = None
    ):
        own_grid = max(16, resolution // 16)
        timm_name, file_name = VARIANTS[name.removeprefix("dinov2-vit-")]
        input_size = PATCH * own_grid
        file = _weight_file(weights, file_name)
        if file is None:
            network = _download(name, timm_name, input_size, file_name)
        else:
            network = _read(file, timm_name, input_size)
        super().__init__(
            name,
            network,
            dim=network.num_features,
            input_size=input_size,
            grid_size=grid_size or own_grid,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )

    def tokens(self, pixels: Tensor) -> Tensor:
        return self.network.forward_features(pixels)[:, self.network.num_prefix_tokens :]


def _weight_file(weights: Path | None, file_name: str) -> Path | None:
    """The file to read: the one given, or the official one if it is in the folder given."""
    if weights is None:
        return None
    if weights.is_file() or (weights.suffix and not weights.is_dir()):
        return weights
    file = weights / file_name
    return file if file.exists() else None


def _read(file: Path, timm_name: str, input_size: int) -> Any:
    state = read_weights(file)
    network: Any = timm.create_model(timm_name, img_size=input_size, num_classes=0)
    try:
        # timm's filter renames what differs and resamples the positions to our grid.
        state = checkpoint_filter_fn(state, network)
    except Exception as error:  # it takes the form of the file for granted
        reason = " ".join(str(error).split())[:300]
        raise RepaError(
            f"{file} does not fit the network: {type(error).__name__}: {reason}"
        ) from None
    load_weights(network, state, file)
    return network


def _download(name: str, timm_name: str, input_size: int, file_name: str) -> Any:
    try:
        return timm.create_model(timm_name, pretrained=True, img_size=input_size, num_classes=0)
    except Exception as error:  # the hub's client has its own and requests' errors
        raise RepaError(
            f"no weights for {name}: download failed ({first_line(error)}); put the official file "
            f"{file_name} into ckpts/ or name it with --encoder-weights"
        ) from None
