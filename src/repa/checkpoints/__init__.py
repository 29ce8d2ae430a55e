"""Trained models on disk: our checkpoint folders, and the files of others."""

from repa.checkpoints.folder import CheckpointState, find_checkpoint, list_checkpoints, read_state
from repa.checkpoints.load import load_model

__all__ = ["CheckpointState", "find_checkpoint", "list_checkpoints", "load_model", "read_state"]
