"""`repa prepare`: from a source of images to a prepared dataset, resumable at any moment."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from repa.autoencoders import Autoencoder
from repa.data.format import (
    FEATURES,
    MANIFEST,
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
from repa.data.sources import Source, printable
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
    indices = spread(len(source.items), max_images)
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
    try:
        dest.mkdir(parents=True, exist_ok=True)
        write_manifest(dest, manifest)
        (dest / "shards").mkdir(exist_ok=True)
    except OSError as error:
        raise RepaError(f"cannot write to --dest {dest}: {error}") from None
    done = min(len(manifest.shards) * SHARD_ITEMS, len(indices))
    batches = DataLoader(
        _Decoded(source, indices, resolution),
        batch_sampler=_batches_within_shards(done, len(indices), batch_size),
        num_workers=num_workers,
        collate_fn=list,
    )
    shard = _Shard(dest, len(manifest.shards), source)
    with tqdm(total=len(indices), initial=done, unit="image", desc="prepare") as progress:
        for items in batches:
            shard.add(items, autoencoder, encoders, device)
            progress.update(len(items))
            done += len(items)
            if shard.items == SHARD_ITEMS or done == len(indices):
                manifest.shards.append(shard.write())
                write_manifest(dest, manifest)
                shard = _Shard(dest, len(manifest.shards), source)
    if manifest.num_images == 0:
        shutil.rmtree(dest if not dest_existed else dest / "shards")
        (dest / MANIFEST).unlink(missing_ok=True)
        raise RepaError(
            f"no image in {source.name}: none of its {len(indices)} files could be read"
        )
    manifest.complete = True
    write_manifest(dest, manifest)
    return manifest


def spread(count: int, wanted: int | None) -> list[int]:
    """Indices of at most `wanted` of `count` items, evenly spread: all classes take part."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [i * count // wanted for i in range(wanted)]


def _continue_or_refuse(dest: Path, wanted: Manifest) -> Manifest:
    """The manifest to go on from: the one in `dest` if it is of the same job, else `wanted`."""
    found = read_manifest(dest)
    if found is None:
        if dest.exists() and (not dest.is_dir() or _has_foreign_files(dest)):
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


def _has_foreign_files(dest: Path) -> bool:
    """Whether there is more than what a run leaves that was killed at its very beginning."""
    return any(path.name != MANIFEST + ".partial" for path in dest.iterdir())


class _Decoded(Dataset):
    """Cropped images: (item index, (3, R, R) uint8 array, or the reason why there is none).

    A `RepaError` as the reason says that the source itself is gone.
    """

    def __init__(self, source: Source, indices: list[int], resolution: int):
        self.source, self.indices, self.resolution = source, indices, resolution

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, np.ndarray | str | RepaError]:
        index = self.indices[position]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
                pixels = center_crop(decode_image(self.source.read(index)), self.resolution)
            return index, np.ascontiguousarray(pixels.transpose(2, 0, 1))
        except RepaError as error:
            return index, error
        except Exception as error:  # whatever a decoder makes of broken bytes
            return index, printable(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _batches_within_shards(start: int, stop: int, batch_size: int) -> list[list[int]]:
    """Positions in batches that do not cross a shard's end, so that resuming repeats them."""
    batches = []
    for first in range(start, stop, SHARD_ITEMS):
        end = min(first + SHARD_ITEMS, stop)
        batches += [list(range(i, min(i + batch_size, end))) for i in range(first, end, batch_size)]
    return batches


class _Shard:
    """One shard in the making: encoded batch by batch, written in one go."""

    def __init__(self, dest: Path, number: int, source: Source):
        self.folder = dest / "shards" / f"{number:05d}"
        self.source = source
        self.items = 0
        self.indices: list[int] = []
        self.skipped: dict[str, str] = {}
        self.arrays: dict[str, list[np.ndarray]] = {}

    @torch.inference_mode()
    def add(
        self,
        items: list[tuple[int, np.ndarray | str | RepaError]],
        autoencoder: Autoencoder,
        encoders: dict[str, Encoder],
        device: torch.device | str,
    ) -> None:
        """Encodes a batch of decoded items and notes those that could not be decoded."""
        self.items += len(items)
        for index, value in items:
            if isinstance(value, RepaError):
                raise value
            if isinstance(value, str):
                name = printable(self.source.items[index].name)
                self.skipped[name] = value
                tqdm.write(f"warning: skipped {name}: {value}", file=sys.stderr)
        good = [(index, value) for index, value in items if isinstance(value, np.ndarray)]
        if not good:
            return
        self.indices += [index for index, _ in good]
        pixels = np.stack([value for _, value in good])
        self._append("images", pixels)
        self._append("labels", np.array([self.source.items[i].label for i, _ in good], np.int64))
        images = torch.from_numpy(pixels).to(device)
        moments = autoencoder.encode(images)
        if moments is not None:
            self._append("latents", moments.float().cpu().numpy())
        for name, encoder in encoders.items():
            self._append(FEATURES + name, encoder(images).to(torch.float16).cpu().numpy())

    def write(self) -> ShardRecord:
        """Writes the shard under a temporary name, then renames it into place."""
        partial = self.folder.with_name(self.folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)  # renamed, but not yet in the manifest
        partial.mkdir()
        for name, parts in self.arrays.items():
            with (partial / f"{name}.npy").open("wb") as file:
                np.save(file, np.concatenate(parts), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        captions = [self.source.items[i].captions for i in self.indices]
        if any(captions):
            write_atomically(partial / "captions.json", to_json(captions))
        record = ShardRecord(
            name=self.folder.name,
            images=len(self.indices),
            skipped=self.skipped,
            sha256=checksums(partial),
        )
        partial.rename(self.folder)
        return record

    def _append(self, name: str, array: np.ndarray) -> None:
        self.arrays.setdefault(name, []).append(array)
