"""Projection heads: from the backbone's hidden state to the width of a target representation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


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


def projection_heads(
    hidden_size: int, target_dims: Sequence[int], projector_dim: int = 2048
) -> nn.ModuleList:
    """One head for each encoder, in the encoders' order."""
    return nn.ModuleList(ProjectionHead(hidden_size, dim, projector_dim) for dim in target_dims)
