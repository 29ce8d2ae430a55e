"""`repa prepare`: from options to the call of `prepare`."""

from __future__ import annotations

import os
from pathlib import Path

from repa.autoencoders import create_autoencoder
from repa.config import PrepareOptions
from repa.data.prepare import prepare
from repa.data.sources import TWEMOJI, open_source
from repa.devices import pick_device
from repa.encoders import check_encoder_names, create_encoder
from repa.errors import RepaError


def run_prepare(options: PrepareOptions) -> None:
    """Prepares a dataset as the options say and prints what it holds.

    Raises:
        RepaError: if the source, an encoder, the autoencoder or the destination does not fit.
    """
    device = pick_device(options.device)
    names = check_encoder_names(options.enc_type)
    source = open_source(options.source)
    if _lies_inside(options.dest, options.source):
        raise RepaError(f"--dest {options.dest} lies inside --source, which it would change")
    encoders = {
        name: create_encoder(
            name, options.resolution, options.feature_grid, options.encoder_weights
        ).to(device)
        for name in names
    }
    manifest = prepare(
        source,
        options.dest,
        options.resolution,
        create_autoencoder(options.autoencoder, device),
        encoders,
        options.max_images,
        options.batch_size,
        _workers(options.num_workers),
        device,
    )
    skipped = f", {manifest.num_skipped} files skipped" if manifest.num_skipped else ""
    print(
        f"{options.dest}: {manifest.num_images} images at {manifest.resolution} px, "
        f"{len(manifest.classes)} classes{skipped}"
    )


def _lies_inside(dest: Path, source: str) -> bool:
    return source not in TWEMOJI and dest.resolve().is_relative_to(Path(source).resolve())


def _workers(wanted: int | None) -> int:
    return min(os.cpu_count() or 1, 8) if wanted is None else wanted
