"""The interface of the frozen target encoders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repa.weights import network_fingerprint

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
        # Numbers, not buffers: `to(torch.bfloat16)` would round those.
        self.mean, self.std = mean, std
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
        channels = zip(images.unbind(1), self.mean, self.std, strict=True)
        x = torch.stack([(c.float() / 255 - mean) / std for c, mean, std in channels], dim=1)
        size = (self.input_size, self.input_size)
        if x.shape[-2:] != size:
            # After normalizing or before it (CLIP), as published: the same, as bicubic weights
            # sum to one.
            x = F.interpolate(x, size, mode="bicubic")
        weight = next(self.network.parameters(), x)  # an encoder may have none
        x = x.to(weight.dtype)
        return resample_tokens(self.tokens(x), self.grid_size)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Normalized pixels (N, 3, input_size, input_size) to the network's own grid (N, T, D)."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell these weights from others, whatever file they came in."""
        return network_fingerprint(self.network)


@dataclass(frozen=True)
class Description:
    """What is known of an encoder without making it.

    Attributes:
        millions: the network's parameters, in millions.
        input_size: side in pixels of what the network sees.
        grid_size: tokens along one side.
        dim: width of a token.
        weights: where the weights come from.
        found: where they are on this machine; None if they are not.
    """

    millions: float
    input_size: int
    grid_size: int
    dim: int
    weights: str
    found: str | None


class Family(Protocol):
    """What stands in the table of encoders: a subclass of `Encoder` with these two."""

    def __call__(
        self, name: str, resolution: int, grid_size: int | None = None, weights: Path | None = None
    ) -> Encoder: ...

    def describe(self, name: str, resolution: int, folder: Path) -> Description:
        """The encoder for images of `resolution` pixels, its weight file looked for in `folder`."""


def own_grid(resolution: int) -> int:
    """Tokens along one side that an encoder has of itself: 16 up to 256 px, 32 at 512 px."""
    return max(16, resolution // 16)


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
