"""The prepared dataset on disk.

    DIR/manifest.json           what it holds, how it was made, a record and checksums of each shard
    DIR/shards/00000/images.npy          uint8 (n, 3, R, R)
                     labels.npy          int64 (n,)
                     latents.npy         float32 (n, 2 C, H, W), mean and deviation; not for pixels
                     features.NAME.npy   float16 (n, T, D), one a cached encoder
                     captions.json       a list of captions for each image

Arrays are plain .npy files, read by memory mapping. A shard covers a fixed range of the source's
items and is renamed into place when whole, so what a killed run leaves is a shorter dataset.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from repa.errors import RepaError

MANIFEST = "manifest.json"
FEATURES = "features."
SHARD_ITEMS = 4096  # source items a shard


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SourceRecord(_Strict):
    """Which source: its name, number of items, and the hash of its listing."""

    name: str
    items: PositiveInt
    fingerprint: str


class AutoencoderRecord(_Strict):
    """Which autoencoder, the scale of its latents and their shape (C, H, W)."""

    name: str
    scale: float = 1.0
    latent_shape: tuple[PositiveInt, PositiveInt, PositiveInt]


class FeatureRecord(_Strict):
    """Cached tokens of one encoder: tokens a side and width."""

    grid_size: PositiveInt
    dim: PositiveInt


class ShardRecord(_Strict):
    """One shard: its number of images, what was skipped, and the SHA-256 of each file."""

    name: str
    images: NonNegativeInt
    skipped: dict[str, str]
    sha256: dict[str, str]


class Manifest(_Strict):
    """What `manifest.json` says."""

    format: Literal["repa-dataset"] = "repa-dataset"
    version: Literal[1] = 1
    source: SourceRecord
    resolution: PositiveInt
    crop: Literal["adm-center"] = "adm-center"
    autoencoder: AutoencoderRecord
    features: dict[str, FeatureRecord]
    classes: list[str]
    has_captions: bool
    max_images: PositiveInt | None = None
    shards: list[ShardRecord] = []
    complete: bool = False

    @property
    def num_images(self) -> int:
        """Images in the shards so far."""
        return sum(shard.images for shard in self.shards)

    @property
    def num_skipped(self) -> int:
        """Source items that could not be decoded, so far."""
        return sum(len(shard.skipped) for shard in self.shards)

    def settings(self) -> dict[str, Any]:
        """Everything but the progress: equal for two runs that make the same dataset."""
        return self.model_dump(mode="json", exclude={"shards", "complete"})


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in `folder`, or None if there is none.

    Raises:
        RepaError: if it is not one of ours.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        where = f" at {where}" if where else ""
        raise RepaError(f"{path} is not a valid manifest{where}: {first['msg']}") from None
    except OSError as error:
        raise RepaError(f"cannot read {path}: {error.strerror}") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces the manifest in one step."""
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that any reader, at any moment, sees the old or the new one whole."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder, by name."""
    result = {}
    for path in sorted(folder.iterdir()):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        result[path.name] = digest.hexdigest()
    return result


def to_json(value: Any) -> bytes:
    """Compact UTF-8 JSON with a final newline."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
