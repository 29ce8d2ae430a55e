"""`repa prepare --verify`: a prepared dataset on disk against its manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from repa.data.arrays import checksum, load_array
from repa.data.format import (
    CAPTIONS,
    Manifest,
    ShardRecord,
    read_manifest,
    read_record,
    shard_folder,
)
from repa.data.prepared import array_names, expected_array, text_arrays
from repa.data.text import STARTS, TEXT, empty_text_file
from repa.errors import RepaError

CHANGED = "other bytes than were written (SHA-256)"


def verify(folder: Path) -> tuple[Manifest, dict[str, str]]:
    """Checks every file: its SHA-256, and the shape and type of arrays.

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
    problems = _empty_text_problems(folder, manifest)
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
        if CAPTIONS in record.sha256:
            names |= {f"{array}.npy" for array in text_arrays(manifest)}
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
            return CHANGED
        if path.suffix == ".npy":
            rows = _expected_rows(path, record)
            if rows is not None:
                return _misfit(path, *expected_array(manifest, path.stem, rows))
    except FileNotFoundError:
        return "missing"
    except Exception as error:  # the system's errors, and what numpy makes of broken bytes
        return " ".join(str(error).split())
    return None


def _empty_text_problems(folder: Path, manifest: Manifest) -> dict[str, str]:
    """What is wrong with the empty captions, which lie in no shard, by file."""
    problems = {}
    for name, record in manifest.text.items():
        path = folder / empty_text_file(name)
        try:
            problem: str | None = CHANGED
            if checksum(path) == record.empty_sha256:
                problem = _misfit(path, np.dtype("float16"), (record.length, record.dim))
        except FileNotFoundError:
            problem = "missing"
        except Exception as error:  # as above
            problem = " ".join(str(error).split())
        if problem is not None:
            problems[path.name] = problem
    return problems


def _misfit(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> str | None:
    """How an array differs from the type and shape that it should have."""
    array = load_array(path, mapped=True)
    if (array.dtype, array.shape) == (dtype, shape):
        return None
    return f"{array.dtype} {array.shape}; expected {dtype} {shape}"


def _agree(there: ShardRecord | None, wanted: ShardRecord) -> bool:
    """The same images and files, but for features and text that are being added."""
    if there is None:
        return False
    own = {
        "sha256": {name: there.sha256.get(name) for name in wanted.sha256},
        "truncated": {name: there.truncated.get(name) for name in wanted.truncated},
    }
    return there.model_copy(update=own) == wanted


def _expected_rows(path: Path, record: ShardRecord) -> int | None:
    """Rows of an array of a shard; None for text where the file that tells is itself damaged."""
    if not path.name.startswith(TEXT):
        return record.images
    if path.stem == STARTS:
        return record.images + 1
    starts = path.with_name(f"{STARTS}.npy")
    if not starts.exists() or checksum(starts) != record.sha256.get(starts.name):
        return None
    return int(load_array(starts)[-1])
