"""`repa prepare --verify`: a prepared dataset on disk against its manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from repa.data.arrays import checksum
from repa.data.features import FEATURES, SCALE
from repa.data.format import Manifest, ShardRecord, read_manifest, read_record, shard_folder
from repa.data.prepared import array_names
from repa.errors import RepaError


def verify(folder: Path) -> tuple[Manifest, dict[str, str]]:
    """Checks every file of every shard: its SHA-256, and the shape and type of arrays.

    Args:
        folder: of the dataset.

    Returns:
        The manifest, and what is wrong, by file.

    Raises:
        RepaError: if there is no finished dataset.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise RepaError(f"no prepared dataset in {folder}")
    if not manifest.complete:
        raise RepaError(f"{folder} is not finished: run the same `repa prepare` again")
    files = list(_files(folder, manifest))
    problems = {}
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,  # hashing lets go of Python's lock
        tqdm(total=manifest.num_images, unit="image", desc="verify") as progress,
    ):
        found = pool.map(lambda file: _problem(manifest, *file), files)
        for (path, record), problem in zip(files, found, strict=True):
            if problem is not None:
                problems[str(path.relative_to(folder))] = problem
            if path.name == "labels.npy":
                progress.update(record.images)
    return manifest, problems


def _files(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, ShardRecord]]:
    needed = {f"{name}.npy" for name in array_names(manifest).values()}
    for number, record in enumerate(manifest.shards):
        names = set(record.sha256) | (needed if record.images else set())
        for name in sorted(names):
            yield shard_folder(folder, number) / name, record


def _problem(manifest: Manifest, path: Path, record: ShardRecord) -> str | None:
    """What is wrong with a file of a shard, in a few words."""
    if path.name not in record.sha256:
        return "not in the manifest"
    try:
        if not _agree(read_record(path.parent), record):
            return "its shard's record differs from the manifest's"
        if checksum(path) != record.sha256[path.name]:
            return "other bytes than were written (SHA-256)"
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            expected = _expected(manifest, path.stem, record.images)
            if (array.dtype, array.shape) != expected:
                return f"{array.dtype} {array.shape}; expected {expected[0]} {expected[1]}"
    except FileNotFoundError:
        return "missing"
    except Exception as error:  # the system's errors, and what numpy makes of broken bytes
        return " ".join(str(error).split())
    return None


def _agree(there: ShardRecord | None, wanted: ShardRecord) -> bool:
    """The same images and files, but for features that are being added."""
    if there is None:
        return False
    own = {name: there.sha256.get(name) for name in wanted.sha256}
    return there.model_copy(update={"sha256": own}) == wanted


def _expected(manifest: Manifest, name: str, rows: int) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape of an array."""
    channels, height, width = manifest.autoencoder.latent_shape
    fixed: dict[str, tuple[str, tuple[int, ...]]] = {
        "images": ("uint8", (3, manifest.resolution, manifest.resolution)),
        "labels": ("int64", ()),
        "latents": ("float32", (2 * channels, height, width)),
    }
    for feature, record in manifest.features.items():
        tokens = record.grid_size**2
        fixed[FEATURES + feature] = (record.dtype, (tokens, record.dim))
        fixed[FEATURES + feature + SCALE] = ("float32", (tokens,))
    dtype, shape = fixed[name]
    return np.dtype(dtype), (rows, *shape)
