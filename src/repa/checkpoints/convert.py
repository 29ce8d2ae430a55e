"""`repa convert`: a checkpoint from one format to another."""

from __future__ import annotations

from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.translate import list_parts, write_checkpoint
from repa.config import ConvertOptions


def run_convert(options: ConvertOptions) -> None:
    """Writes `--ckpt` as `--dest` in the format `--to`, and says in a line what was written.

    Raises:
        RepaError: if the checkpoint cannot be used or the destination not be written.
    """
    checkpoint = open_checkpoint(options.ckpt, options.encoder_depth, options.model)
    write_checkpoint(checkpoint, options.dest, options.to, options.overwrite)
    # A folder to publish has the averaged weights alone: without what only training needs.
    dropped = ("model", "optimizer") if options.to == "pretrained" else ()
    written = list_parts([part for part in checkpoint.parts if part not in dropped])
    print(f"{options.dest}: {checkpoint.state.model}, step {checkpoint.state.step}: {written}")
