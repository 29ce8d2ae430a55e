"""`repa prepare`: from a source of images to a prepared dataset, resumable at any moment."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from repa.autoencoders import Autoencoder
from repa.data.format import (
    FEATURES,
    SHARD_ITEMS,
    AutoencoderRecord,
    FeatureRecord,
    Manifest,
    ShardRecord,
    SourceRecord,
    checksums,
    read_manifest,
    to_json,
    write_atomically,
    write_manifest,
)
from repa.data.images import center_crop, decode_image
from repa.data.sources import Source
from repa.encoders import Encoder
from repa.errors import RepaError


def prepare(
    source: Source,
    dest: Path,
    resolution: int,
    autoencoder: Autoencoder,
    encoders: dict[str, Encoder],
    max_images: int | None = None,
    batch_size: int = 64,
    num_workers: int = 2,
    device: torch.device | str = "cpu",
) -> Manifest:
    """Crops, encodes and writes a source, continuing where an earlier run of the same job stopped.

    Args:
        source: images with labels.
        dest: folder of the dataset; created if need be.
        resolution: side of the cropped images in pixels.
        autoencoder: makes the latents; pixels have none.
        encoders: target encoders whose tokens to cache, by name.
        max_images: use only so many of the source's items, spread evenly over it.
        batch_size: images encoded at a time.
        num_workers: decoding processes.
        device: where autoencoder and encoders run.

    Returns:
        The manifest of the complete dataset.

    Raises:
        RepaError: if `dest` holds another dataset or other files, or no item is an image.
    """
    indices = _spread(len(source.items), max_images)
    manifest = Manifest(
        source=SourceRecord(
            name=source.name, items=len(source.items), fingerprint=source.fingerprint
        ),
        resolution=resolution,
        autoencoder=AutoencoderRecord(
            name=autoencoder.name,
            scale=autoencoder.scale,
            latent_shape=autoencoder.latent_shape(resolution),
        ),
        features={
            name: FeatureRecord(grid_size=encoder.grid_size, dim=encoder.dim)
            for name, encoder in encoders.items()
        },
        classes=source.classes,
        has_captions=any(item.captions for item in source.items),
        max_images=max_images,
    )
    manifest = _continue_or_refuse(dest, manifest)
    if manifest.complete:
        return manifest

    dest_existed = dest.exists()
    (dest / "shards").mkdir(parents=True, exist_ok=True)
    write_manifest(dest, manifest)
    start = len(manifest.shards) * SHARD_ITEMS
    batches = DataLoader(
        _Decoded(source, indices[start:], resolution),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
    )
    with tqdm(total=len(indices), initial=start, unit="image", desc="prepare") as progress:
        for items in _shards_of(batches, progress):
            shard = _write_shard(dest, len(manifest.shards), items, source, autoencoder, encoders,
                                 batch_size, device)  # fmt: skip
            manifest.shards.append(shard)
            write_manifest(dest, manifest)
    if manifest.num_images == 0:
        shutil.rmtree(dest if not dest_existed else dest / "shards")
        (dest / "manifest.json").unlink(missing_ok=True)
        raise RepaError(f"no image in {source.name}: none of its {len(indices)} files could be read")
    manifest.complete = True
    write_manifest(dest, manifest)
    return manifest


def _spread(count: int, wanted: int | None) -> list[int]:
    """Indices of at most `wanted` of `count` items, evenly spread, so that all classes take part."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [i * count // wanted for i in range(wanted)]


def _continue_or_refuse(dest: Path, wanted: Manifest) -> Manifest:
    """The manifest to go on from: the one in `dest` if it is of the same job, else `wanted`."""
    found = read_manifest(dest)
    if found is None:
        if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
            raise RepaError(f"{dest} exists and is not a prepared dataset; choose another --dest")
        return wanted
    old, new = found.settings(), wanted.settings()
    differing = [key for key in new if old[key] != new[key]]
    if differing:
        raise RepaError(
            f"{dest} holds a dataset of another source or settings (different: "
            f"{', '.join(differing)}); choose another --dest"
        )
    return found


class _Decoded(Dataset):
    """Cropped images: (item index, (3, R, R) uint8 array, or the reason why there is none)."""

    def __init__(self, source: Source, indices: list[int], resolution: int):
        self.source, self.indices, self.resolution = source, indices, resolution

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, np.ndarray | str]:
        index = self.indices[position]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
                pixels = center_crop(decode_image(self.source.read(index)), self.resolution)
            return index, np.ascontiguousarray(pixels.transpose(2, 0, 1))
        except Exception as error:  # whatever a decoder makes of broken bytes
            return index, f"{type(error).__name__}: {error}"


def _shards_of(batches: DataLoader, progress: tqdm) -> Iterator[list[tuple[int, Any]]]:
    """Decoded items in groups of `SHARD_ITEMS`, the last one shorter."""
    items: list[tuple[int, Any]] = []
    for batch in batches:
        items += batch
        progress.update(len(batch))
        while len(items) >= SHARD_ITEMS:
            yield items[:SHARD_ITEMS]
            items = items[SHARD_ITEMS:]
    if items:
        yield items


def _write_shard(
    dest: Path,
    number: int,
    items: list[tuple[int, np.ndarray | str]],
    source: Source,
    autoencoder: Autoencoder,
    encoders: dict[str, Encoder],
    batch_size: int,
    device: torch.device | str,
) -> ShardRecord:
    """Encodes and writes one shard under a temporary name, then renames it into place."""
    good = [(index, value) for index, value in items if not isinstance(value, str)]
    skipped = {source.items[i].name: reason for i, reason in items if isinstance(reason, str)}
    for name, reason in skipped.items():
        tqdm.write(f"warning: skipped {name}: {reason}")

    name = f"{number:05d}"
    partial, folder = dest / "shards" / f"{name}.partial", dest / "shards" / name
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # renamed, but not yet in the manifest
    partial.mkdir()
    if good:
        images = np.stack([value for _, value in good])
        arrays = {
            "images": images,
            "labels": np.array([source.items[i].label for i, _ in good], np.int64),
            **_encode(images, autoencoder, encoders, batch_size, device),
        }
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            write_atomically(partial / f"{key}.npy", buffer.getbuffer())
    captions = [source.items[i].captions for i, _ in good]
    if any(captions):
        write_atomically(partial / "captions.json", to_json(captions))
    record = ShardRecord(
        name=name, images=len(good), skipped=skipped, sha256=checksums(partial)
    )
    partial.rename(folder)
    return record


@torch.inference_mode()
def _encode(
    images: np.ndarray,
    autoencoder: Autoencoder,
    encoders: dict[str, Encoder],
    batch_size: int,
    device: torch.device | str,
) -> dict[str, np.ndarray]:
    """Latent moments and encoder tokens of a shard's images."""
    parts: dict[str, list[np.ndarray]] = {}
    for batch in torch.from_numpy(images).split(batch_size):
        batch = batch.to(device)
        moments = autoencoder.encode(batch)
        if moments is not None:
            parts.setdefault("latents", []).append(moments.float().cpu().numpy())
        for name, encoder in encoders.items():
            tokens = encoder(batch).to(torch.float16).cpu().numpy()
            parts.setdefault(FEATURES + name, []).append(tokens)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
