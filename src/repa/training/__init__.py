"""Training: the module, the loop around it, averaged weights and checkpoints."""

from repa.training.loop import train
from repa.training.module import Batch, TrainingModule

__all__ = ["Batch", "TrainingModule", "train"]
