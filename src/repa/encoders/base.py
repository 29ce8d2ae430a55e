"""The interface of the frozen target encoders."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class Encoder(nn.Module):
    """Frozen network from images to a square grid of patch tokens.

    Subclasses say how a batch of normalized pixels becomes tokens (`tokens`).

    Attributes:
        name: as `create_encoder` takes it.
        grid_size: tokens along one side of what `forward` returns.
        dim: width of a token.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        network: Any,
        dim: int,
        input_size: int,
        grid_size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ):
        super().__init__()
        self.name = name
        self.network = network
        self.dim = dim
        self.input_size = input_size
        self.grid_size = grid_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Encoder:
        """Stays in evaluation mode, whatever the module around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Tokens of clean images.

        Args:
            images: (N, 3, H, W), uint8.

        Returns:
            (N, grid_size^2, dim), floating; row by row from the top left.
        """
        x = (images.float() / 255 - self.mean) / self.std
        size = (self.input_size, self.input_size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bicubic")
        return resample_tokens(self.tokens(x), self.grid_size)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Normalized pixels (N, 3, input_size, input_size) to the network's own grid (N, T, D)."""
        raise NotImplementedError


def resample_tokens(tokens: Tensor, grid_size: int) -> Tensor:
    """Tokens (N, T, D) of a square grid on another one, (N, grid_size^2, D).

    Averages when there are fewer tokens to make, interpolates bilinearly when there are more.
    """
    n, t, d = tokens.shape
    side = math.isqrt(t)
    if side == grid_size:
        return tokens
    maps = tokens.transpose(1, 2).reshape(n, d, side, side)
    size = (grid_size, grid_size)
    if side > grid_size:
        maps = F.adaptive_avg_pool2d(maps, size)
    else:
        maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)
