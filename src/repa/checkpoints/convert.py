"""`repa convert`: a checkpoint from one format to another."""

from __future__ import annotations

from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.translate import list_parts, write_checkpoint
from repa.checkpoints.write_released import released_parts
from repa.config import ConvertOptions


def run_convert(options: ConvertOptions) -> None:
    """Writes `--ckpt` as `--dest` in the format `--to`, and says in a line what was written.

    Raises:
        RepaError: if the checkpoint cannot be used or the destination not be written.
    """
    checkpoint = open_checkpoint(options.ckpt, options.encoder_depth, options.model)
    write_checkpoint(checkpoint, options.dest, options.to, options.overwrite)
    state, parts = checkpoint.state, list(checkpoint.parts)
    if options.to == "pretrained":  # the averaged weights, without what only training needs
        parts = [part for part in parts if part not in ("model", "optimizer")]
    if options.to == "released":
        parts = released_parts(state, checkpoint.parts)
    print(f"{options.dest}: {state.model}, step {state.step}: {list_parts(parts)}")
