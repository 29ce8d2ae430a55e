"""CLIP ViT-L/14 at 336 px, the network of CMMD (Jayasumana et al., CVPR 2024)."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from repa.encoders.vit import CLIP_MEAN, CLIP_STD, ViT
from repa.evaluation.networks.base import Features, Network, normalize
from repa.evaluation.networks.vit import load_vit

INPUT_SIZE = 336
DIM = 768  # of the space that CLIP's images and texts share

# OpenAI's weights are for QuickGELU: timm's variant without it is not quite their network.
ROW = ViT(
    "vit_large_patch14_clip_quickgelu_336.openai", ("clip_vitl_336.pth",),
    14, 1024, 304.3, CLIP_MEAN, CLIP_STD, part="visual.",
)  # fmt: skip


class CLIP(Network):
    """Projected image embeddings (768) of length 1.

    As published, the middle square of an image is resized to 336 px as Pillow does it.
    """

    def forward(self, images: Tensor) -> Features:
        """Images (N, 3, H, W) uint8 to features (N, 768)."""
        x = normalize(pillow_bicubic(_middle_square(images), INPUT_SIZE), CLIP_MEAN, CLIP_STD)
        return Features(F.normalize(self.network(x)))


def load(name: str, weights: Path | None) -> CLIP:
    """CLIP with the weights of `clip_vitl_336.pth` (the state dict of OpenAI's file), or timm's.

    Raises:
        RepaError: if the weights cannot be had or do not fit.
    """
    network = load_vit(name, ROW, weights, img_size=INPUT_SIZE, num_classes=DIM)
    return CLIP(name, network, DIM)


def pillow_bicubic(images: Tensor, side: int) -> Tensor:
    """Images (N, 3, H, W) in [0, 255] resized as Pillow does: to whole numbers, columns first.

    Returns:
        (N, 3, side, side), float32, whole numbers in [0, 255].
    """
    x = images.float()
    for size in ((x.shape[2], side), (side, side)):
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True)
            x = (x + 0.5).floor().clamp(0, 255)  # halves go up
    return x


def _middle_square(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, :, top : top + side, left : left + side]
