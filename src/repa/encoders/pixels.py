"""The image's own patches as tokens: the floor under what an encoder knows."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from repa.encoders.base import HALF, Description, Encoder, own_grid
from repa.errors import RepaError


class PixelEncoder(Encoder):
    """Patches of the clean image in [-1, 1], red, green, blue, each row by row.

    A token is p * p * 3 wide, p = resolution / grid_size. An alignment to it shows what a second
    loss, a head and the clean image do by themselves, without anything learned elsewhere.

    Raises:
        RepaError: if the grid does not divide the image.
    """

    def __init__(
        self, name: str, resolution: int, grid_size: int | None = None, weights: Path | None = None
    ):
        grid_size = grid_size or own_grid(resolution)
        if resolution % grid_size:
            raise RepaError(
                f"--enc-type {name}: {resolution} px do not divide into {grid_size} patches a side"
            )
        super().__init__(
            name,
            nn.Identity(),
            dim=_width(resolution, grid_size),
            input_size=resolution,
            grid_size=grid_size,
            mean=HALF,
            std=HALF,
        )

    def tokens(self, pixels: Tensor) -> Tensor:
        patch = self.input_size // self.grid_size
        return F.unfold(pixels, patch, stride=patch).transpose(1, 2)  # (N, T, 3 p p)

    @classmethod
    def describe(cls, name: str, resolution: int, folder: Path) -> Description:
        grid = own_grid(resolution)
        width = _width(resolution, grid)
        return Description(0.0, resolution, grid, width, "none", "installed")


def _width(resolution: int, grid_size: int) -> int:
    return 3 * (resolution // grid_size) ** 2
