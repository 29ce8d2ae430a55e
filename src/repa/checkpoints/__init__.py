"""Trained models on disk: our checkpoint folders, and the files of others."""

from repa.checkpoints.checkpoint import RELEASED_NAME, locate, locate_all, run_of
from repa.checkpoints.folder import find_checkpoint, list_checkpoints
from repa.checkpoints.load import load_model, objective_of
from repa.checkpoints.null_context import lacks_null_context
from repa.checkpoints.state import CheckpointState, read_state
from repa.checkpoints.translate import continue_released, import_released

__all__ = [
    "RELEASED_NAME",
    "CheckpointState",
    "continue_released",
    "find_checkpoint",
    "import_released",
    "lacks_null_context",
    "list_checkpoints",
    "load_model",
    "locate",
    "locate_all",
    "objective_of",
    "read_state",
    "run_of",
]
