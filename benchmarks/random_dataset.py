"""A prepared dataset of random numbers, and an encoder of random weights: speed needs no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from repa.data.format import (
    AutoencoderRecord,
    FeatureRecord,
    Manifest,
    ShardRecord,
    SourceRecord,
    shard_folder,
    write_manifest,
    write_record,
)
from repa.encoders.vit import VITS

CLASSES = 1000
LATENT = (4, 32, 32)  # of images of 256 px
GRID = 16


def write_random_dataset(folder: Path, images: int, encoder: str | None) -> Path:
    """Images of 256 px, latents, labels and an encoder's tokens, if any, as `repa prepare`'s."""
    random = np.random.default_rng(0)
    arrays = {
        "images": random.integers(0, 256, (images, 3, 256, 256), np.uint8),
        "labels": random.integers(0, CLASSES, images),
        "latents": random.random((images, 2 * LATENT[0], *LATENT[1:]), np.float32),
    }
    features = {}
    if encoder is not None:
        dim = VITS[encoder].dim
        tokens = random.standard_normal((images, GRID**2, dim), np.float32).astype(np.float16)
        arrays[f"features.{encoder}"] = tokens
        features[encoder] = FeatureRecord(grid_size=GRID, dim=dim)
    shard = shard_folder(folder, 0)
    shard.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(shard / f"{name}.npy", array)
    record = ShardRecord(
        name=shard.name, images=images, skipped={}, sha256={f"{name}.npy": "" for name in arrays}
    )
    write_record(shard, record)
    manifest = Manifest(
        source=SourceRecord(name="random", items=images, fingerprint=""),
        resolution=256,
        autoencoder=AutoencoderRecord(name="sd-vae-ft-mse", scale=0.18215, latent_shape=LATENT),
        features=features,
        classes=[str(i) for i in range(CLASSES)],
        has_captions=False,
        shard_items=images,
        shards=[record],
        complete=True,
    )
    write_manifest(folder, manifest)
    return folder


def write_random_encoder(folder: Path, encoder: str) -> Path:
    """A file of random weights, as published."""
    torch.manual_seed(0)
    row = VITS[encoder]
    network = timm.create_model(row.network, num_classes=0, **row.arguments)
    file = folder / Path(row.files[0]).with_suffix(".safetensors").name
    save_file(network.state_dict(), file)
    return file
