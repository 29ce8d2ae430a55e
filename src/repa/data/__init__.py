"""From images to a prepared dataset, and from there to training samples."""

from repa.data.prepared import PreparedDataset

__all__ = ["PreparedDataset"]
