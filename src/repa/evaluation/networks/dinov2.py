"""DINOv2 ViT-L/14, the network of FD-DINOv2 (Stein et al., NeurIPS 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repa.encoders.base import IMAGENET_MEAN, IMAGENET_STD
from repa.encoders.vit import VITS
from repa.evaluation.networks.base import Features, Network, normalize
from repa.evaluation.networks.vit import load_vit

INPUT_SIZE = 224
TRAINED_SIZE = 518  # whose positions the published weights hold


class DINOv2(Network):
    """The class token (1024) after the final norm.

    Images are resized to 224 px, bicubic with antialiasing, without rounding to whole values: as
    published numbers of diffusion models have it (EDM2's evaluation).
    """

    def forward(self, images: Tensor) -> Features:
        """Images (N, 3, H, W) uint8 to features (N, 1024)."""
        size = (INPUT_SIZE, INPUT_SIZE)
        x = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
        x = normalize(x, IMAGENET_MEAN, IMAGENET_STD)
        return Features(self.network.forward_features(x)[:, 0])


def load(name: str, weights: Path | None) -> DINOv2:
    """DINOv2 with the weights of `dinov2_vitl14_pretrain.pth`, or timm's.

    Raises:
        RepaError: if the weights cannot be had or do not fit.
    """
    options = {"img_size": TRAINED_SIZE, "num_classes": 0}
    network = load_vit(name, VITS["dinov2-vit-l"], weights, **options)
    _resample_positions(network)
    return DINOv2(name, network, network.num_features)


@torch.no_grad()
def _resample_positions(network: Any) -> None:
    """From 37x37 to 16x16 patches as the published network does it, other than timm.

    Bicubic without antialiasing, at the scale (16 + 0.1) / 37.
    """
    class_position, patches = network.pos_embed[:, :1], network.pos_embed[:, 1:]
    side = network.patch_embed.grid_size[0]
    new_side = INPUT_SIZE // network.patch_embed.patch_size[0]
    scale = (new_side + 0.1) / side
    maps = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, D, 37, 37)
    maps = F.interpolate(maps, scale_factor=(scale, scale), mode="bicubic")  # (1, D, 16, 16)
    network.set_input_size(INPUT_SIZE)
    positions = torch.cat([class_position, maps.flatten(2).transpose(1, 2)], dim=1)
    network.pos_embed = nn.Parameter(positions)
