"""Projection heads: from the backbone's hidden state to the width of a target representation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

ProjectionLayer = Literal["mlp", "conv"]


class ProjectionHead(nn.Sequential):
    """h_phi of REPA: a 3-layer MLP with SiLU, (N, T, hidden_size) to (N, T, target_dim).

    Args:
        hidden_size: width of the backbone's hidden state.
        target_dim: width D of the encoder's tokens.
        projector_dim: width of the two inner layers.
    """

    def __init__(self, hidden_size: int, target_dim: int, projector_dim: int = 2048):
        super().__init__(
            nn.Linear(hidden_size, projector_dim),
            nn.SiLU(),
            nn.Linear(projector_dim, projector_dim),
            nn.SiLU(),
            nn.Linear(projector_dim, target_dim),
        )
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


class ConvProjectionHead(nn.Module):
    """h_phi of iREPA (Singh et al., 2025): one 3x3 convolution over the square grid of tokens.

    Unlike an MLP it looks at a token's neighbors, and with 9 hidden_size target_dim weights costs
    less than the MLP's inner layer alone.

    Args:
        hidden_size: width of the backbone's hidden state.
        target_dim: width D of the encoder's tokens.
    """

    def __init__(self, hidden_size: int, target_dim: int):
        super().__init__()
        self.conv = nn.Conv2d(hidden_size, target_dim, kernel_size=3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, T, hidden_size) to (N, T, target_dim); T a square number."""
        n, t, d = hidden.shape
        side = math.isqrt(t)
        maps = hidden.transpose(1, 2).reshape(n, d, side, side)
        return self.conv(maps).flatten(2).transpose(1, 2)


def projection_heads(
    hidden_size: int,
    target_dims: Sequence[int],
    projector_dim: int = 2048,
    layer: ProjectionLayer = "mlp",
) -> nn.ModuleList:
    """One head for each encoder, in the encoders' order; `projector_dim` is of MLPs."""
    if layer == "conv":
        return nn.ModuleList(ConvProjectionHead(hidden_size, dim) for dim in target_dims)
    return nn.ModuleList(ProjectionHead(hidden_size, dim, projector_dim) for dim in target_dims)
