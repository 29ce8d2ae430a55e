"""Representation alignment for training diffusion transformers (REPA, Yu et al., ICLR 2025)."""

__version__ = "0.1.0"
