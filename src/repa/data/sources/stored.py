"""What a table says of other files: images stored as paths, and the parts of a saved dataset.

A table may be anyone's. It names no files but those in its own folder and on the hub.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from repa.data.arrays import check_regular
from repa.data.sources.files import MAX_IMAGE_FILE
from repa.errors import RepaError

Roots = tuple[Path, ...]
ARCHIVES = {"zip", "tar", "gzip"}  # in which a file may lie: zip://a.png::/folder/b.zip
STATE, SPLITS = "state.json", "dataset_dict.json"  # of what `save_to_disk` writes


def roots_of(folder: Path) -> Roots:
    """A folder, as it is named and as links lead to it."""
    return Path(os.path.abspath(folder)), folder.resolve()


def cache_roots() -> Roots:
    """Where the library keeps what it downloads and unpacks."""
    import datasets
    from huggingface_hub import constants

    caches = (datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)
    return tuple(root for cache in caches for root in roots_of(Path(cache)))


def stored(value: Any, roots: Roots) -> bytes:
    """The file that a cell of a table holds, or whose path it holds.

    Args:
        value: the cell: bytes, or {"bytes", "path"}.
        roots: folders in which such a path may lie.

    Raises:
        ValueError: if there is none, or it lies elsewhere.
        Exception: of the system and of fsspec, if it cannot be read.
    """
    if isinstance(value, dict):
        data, path = value["bytes"], value["path"]
        value = data if data is not None or path is None else _read_file(path, roots)
    if value is None:
        raise ValueError("no image in this row")
    return value


def stored_or_nothing(value: Any, roots: Roots) -> bytes:
    """As `stored`, but empty where a file is missing: the stream goes on, without this image."""
    try:
        return stored(value, roots)
    except (OSError, ValueError):
        if isinstance(value, dict) and "://" in (value["path"] or ""):
            raise  # the network's fault
        return b""


def check_saved(folder: Path) -> None:
    """Whether a dataset of `save_to_disk`, which names its parts, names only what lies in it.

    Raises:
        RepaError: if not, or what names them is broken.
    """
    try:
        splits = [""]
        if (folder / SPLITS).is_file():
            splits = [_plain(name) for name in _read_json(folder / SPLITS)["splits"]]
        for split in splits:
            for part in _read_json(folder / split / STATE)["_data_files"]:
                _plain(part["filename"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise RepaError(f"cannot read {folder}: damaged dataset: {error}") from None


def _read_json(path: Path) -> Any:
    check_regular(path)
    return json.loads(path.read_bytes())


def _plain(name: Any) -> str:
    """The name of a file in a folder, not of one elsewhere."""
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & {"/", "\\", "\0"}:
        raise ValueError(f"{name!r} is no name of a part of it")
    return name


def _read_file(path: str, roots: Roots) -> bytes:
    *archives, place = path.split("::")
    protocol, separator, rest = place.rpartition("://")
    if {part.partition("://")[0] for part in archives} <= ARCHIVES:
        if protocol == "hf":
            return _fetch(path)
        local = Path(os.path.abspath(rest if separator else place))
        if protocol in ("", "file") and any(local.is_relative_to(root) for root in roots):
            if archives:
                return _fetch(path)
            check_regular(local)
            return _limited(local.read_bytes() if local.stat().st_size <= MAX_IMAGE_FILE else None)
    # A table must not make us ask servers of its choice, nor read what its maker has not.
    raise ValueError(f"{path} is not read; only files in the dataset's folder and the hub are")


def _fetch(path: str) -> bytes:
    import fsspec  # comes with datasets; knows the hub's addresses

    with fsspec.open(path) as file:
        data = file.read(MAX_IMAGE_FILE + 1)
    return _limited(data if len(data) <= MAX_IMAGE_FILE else None)


def _limited(data: bytes | None) -> bytes:
    if data is None:
        raise ValueError(f"expected at most {MAX_IMAGE_FILE} bytes")
    return data
