"""Representation alignment: projection heads, and losses that pull them to an encoder's tokens."""

from repa.alignment.heads import ConvProjectionHead, ProjectionHead, projection_heads
from repa.alignment.losses import ALIGNMENT_LOSSES, cosine_alignment_loss, nt_xent_alignment_loss
from repa.alignment.normalization import ChannelNormalization, spatial_normalization

__all__ = [
    "ALIGNMENT_LOSSES",
    "ChannelNormalization",
    "ConvProjectionHead",
    "ProjectionHead",
    "cosine_alignment_loss",
    "nt_xent_alignment_loss",
    "projection_heads",
    "spatial_normalization",
]
