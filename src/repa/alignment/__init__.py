"""Representation alignment: projection heads, and losses that pull them to an encoder's tokens."""

from repa.alignment.heads import ProjectionHead, projection_heads
from repa.alignment.losses import cosine_alignment_loss

__all__ = ["ProjectionHead", "cosine_alignment_loss", "projection_heads"]
