"""`repa encoders`: what there is, how large, and whether its weights are here."""

from __future__ import annotations

from repa.config import EncodersOptions
from repa.encoders import ENCODERS
from repa.errors import RepaError

HEADER = ("encoder", "params", "input", "tokens", "weights", "here")


def run_encoders(options: EncodersOptions) -> None:
    """Prints a table of the encoders; makes none of them and asks no network.

    Raises:
        RepaError: if a file is given for the folder of weights.
    """
    if options.encoder_weights.is_file():
        raise RepaError(f"--encoder-weights {options.encoder_weights} is a file, not a folder")
    rows = [HEADER, *(_row(name, options) for name in ENCODERS)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _row(name: str, options: EncodersOptions) -> tuple[str, ...]:
    it = ENCODERS[name].describe(name, options.resolution, options.encoder_weights)
    return (
        name,
        f"{it.millions:.1f}M",
        f"{it.input_size} px",
        f"{it.grid_size}x{it.grid_size}x{it.dim}",
        it.weights,
        it.found or "no",
    )
