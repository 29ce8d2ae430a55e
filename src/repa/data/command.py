"""`repa prepare`: from options to what they ask for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from repa.autoencoders import Autoencoder, create_autoencoder
from repa.config import PrepareOptions
from repa.data.format import AutoencoderRecord, Manifest, read_manifest
from repa.data.prepare import extend, has_captions, prepare
from repa.data.released import ReleasedSource, is_released_layout
from repa.data.share import Work
from repa.data.sources import TWEMOJI, Columns, Source, Stream, open_source
from repa.data.text import check_captions
from repa.data.verify import verify
from repa.devices import pick_precision
from repa.encoders import Encoder, check_encoder_names, create_encoders
from repa.errors import RepaError
from repa.processes import start_processes

if TYPE_CHECKING:
    from repa.text import TextEncoder  # which imports this package

RESOLUTION, AUTOENCODER = 256, "sd-vae-ft-mse"  # of a new dataset, unless told otherwise


def run_prepare(options: PrepareOptions) -> None:
    """Prepares, extends or verifies a dataset and prints what it holds.

    Raises:
        RepaError: if the source, an encoder, the autoencoder or the destination does not fit, or
            the dataset to verify is damaged.
    """
    if options.verify is not None:
        _verify(options.verify)
        return
    state = start_processes(options.device)
    device = state.device  # this process's own
    check_encoder_names(options.enc_type)
    if options.source is None:
        manifest = _extend(options, device)
    else:
        manifest = _prepare(options, options.source, device)
    if state.is_main_process:
        print(_summary(_dest(options), manifest))


def _prepare(options: PrepareOptions, name: str, device: torch.device) -> Manifest:
    dest = _dest(options)
    source = _open(options, name)
    if name not in TWEMOJI and dest.resolve().is_relative_to(Path(name).resolve()):
        raise RepaError(f"--dest {dest} lies inside --source, which it would change")
    texts = _text_encoders(options, source.name, has_captions(source), device)
    found = read_manifest(dest)
    default_resolution = found.resolution if found else RESOLUTION
    default_autoencoder = found.autoencoder.name if found else AUTOENCODER
    autoencoder: Autoencoder | AutoencoderRecord
    if isinstance(source, ReleasedSource):
        resolution = _fixed_resolution(options, source.resolution)
        autoencoder = source.autoencoder(options.autoencoder or default_autoencoder)
    else:
        resolution = options.resolution or default_resolution
        autoencoder = _autoencoder(options.autoencoder or default_autoencoder, resolution, device)
    return prepare(
        source,
        dest,
        resolution,
        autoencoder,
        _encoders(options, resolution, device),
        options.max_images,
        _work(options, device),
        options.feature_dtype,
        pick_precision(options.mixed_precision, device),
        texts,
    )


def _extend(options: PrepareOptions, device: torch.device) -> Manifest:
    dest = _dest(options)
    found = read_manifest(dest)
    if found is None:
        raise RepaError(f"no prepared dataset in {dest}; give --source to make one")
    resolution = _fixed_resolution(options, found.resolution)
    name = options.autoencoder
    return extend(
        dest,
        None if name is None else _autoencoder(name, resolution, device),
        _encoders(options, resolution, device),
        _work(options, device),
        options.feature_dtype,
        pick_precision(options.mixed_precision, device),
        _text_encoders(options, found.source.name, found.has_captions, device),
    )


def _open(options: PrepareOptions, name: str) -> Source | Stream:
    if is_released_layout(Path(name)):
        return ReleasedSource(Path(name))
    columns = Columns(options.image_column, options.label_column, options.caption_column)
    return open_source(name, split=options.split, streaming=options.streaming, columns=columns)


def _dest(options: PrepareOptions) -> Path:
    assert options.dest is not None  # the options were validated
    return options.dest


def _fixed_resolution(options: PrepareOptions, resolution: int) -> int:
    """The resolution of images that are cropped already."""
    if options.resolution not in (None, resolution):
        raise RepaError(f"--resolution {options.resolution}: the images have {resolution} px")
    return resolution


def _autoencoder(name: str, resolution: int, device: torch.device) -> Autoencoder:
    autoencoder = create_autoencoder(name, device)
    autoencoder.latent_shape(resolution)  # or there is a better message than that of its layers
    latents = autoencoder.encode(_blank(resolution, device))
    if latents is not None and not latents.isfinite().all():
        raise RepaError(
            f"the autoencoder {name} makes latents that are not finite: its weights are broken, "
            "name a folder with others as --autoencoder"
        )
    return autoencoder


def _encoders(options: PrepareOptions, resolution: int, device: torch.device) -> dict[str, Encoder]:
    names = check_encoder_names(options.enc_type)
    encoders = create_encoders(names, resolution, options.feature_grid, options.encoder_weights)
    for name, encoder in encoders.items():
        if not encoder.to(device)(_blank(resolution, device)).isfinite().all():
            raise RepaError(
                f"the encoder {name} makes tokens that are not finite: its weights are broken, "
                "give others with --encoder-weights"
            )
    return encoders


def _blank(resolution: int, device: torch.device) -> torch.Tensor:
    """An image (1, 3, R, R) uint8: broken weights show before a dataset of theirs is begun."""
    return torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8, device=device)


def _text_encoders(
    options: PrepareOptions, source: str, has_captions: bool, device: torch.device
) -> list[TextEncoder]:
    if options.text_enc_type.lower() == "none":
        return []
    names = [name.strip() for name in options.text_enc_type.split(",")]
    check_captions(names, source, has_captions)  # before weights are looked for
    if len(names) > 1 and options.text_encoder_weights is not None:
        raise RepaError(
            f"--text-encoder-weights is for one text encoder, --text-enc-type names {len(names)}; "
            "add them one after another"
        )
    from repa.text import create_text_encoder  # transformers take seconds to import

    encoders = [create_text_encoder(n, options.text_encoder_weights).to(device) for n in names]
    for encoder in encoders:
        encoder([""])  # as a blank image is for others
    return encoders


def _work(options: PrepareOptions, device: torch.device) -> Work:
    workers = options.num_workers
    return Work(
        batch_size=options.batch_size,
        num_workers=min(os.cpu_count() or 1, 8) if workers is None else workers,
        device=device,
        strict=options.strict,
    )


def _verify(folder: Path) -> None:
    manifest, problems = verify(folder)
    files = sum(len(shard.sha256) for shard in manifest.shards) + len(manifest.text)
    for file, problem in problems.items():
        print(f"{file}: {problem}", file=sys.stderr)
    if problems:
        raise RepaError(
            f"{folder}: {len(problems)} of {files} files are not what was written; delete the "
            "folders of their shards, or a file that lies in none, and run the same "
            "`repa prepare` again"
        )
    print(f"{_summary(folder, manifest)}; all {files} files are what was written")


def _summary(folder: Path, manifest: Manifest) -> str:
    skipped = f", {manifest.num_skipped} files skipped" if manifest.num_skipped else ""
    cut = [
        f", {record.truncated} captions cut to {record.length} tokens"
        for record in manifest.text.values()
        if record.truncated
    ]
    return (
        f"{folder}: {manifest.num_images} images at {manifest.resolution} px, "
        f"{len(manifest.classes)} classes{skipped}{''.join(cut)}"
    )
