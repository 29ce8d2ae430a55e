"""Reading a prepared dataset: random access by memory mapping, no per-image file."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repa.data.arrays import map_array
from repa.data.features import FEATURES, SCALE, feature_arrays, unpack_features
from repa.data.format import (
    CAPTIONS,
    Manifest,
    TextRecord,
    read_captions,
    read_manifest,
    shard_folder,
)
from repa.data.text import STARTS, drawn_caption, empty_text_file, text_array
from repa.errors import RepaError


class PreparedDataset:
    """A prepared dataset as a sequence of {array name: value}.

    Item i has `image` (3, R, R) uint8, `label` int64, `latent` (2 C, H, W) float32 unless the
    dataset is of pixels, and for each cached encoder `features.NAME` (T, D) float16, or int8 with
    `features.NAME.scale` (T,) float32. Arrays are views of the mapped files: copy before writing.
    Text is read by `read_text`: an image has any number of captions.

    Args:
        folder: what `repa prepare` wrote.

    Raises:
        RepaError: if there is no complete dataset in it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise RepaError(f"no prepared dataset in {folder}: make one with `repa prepare --dest`")
        if not manifest.complete:
            raise RepaError(f"{folder} is not finished: run the same `repa prepare` again")
        if manifest.num_images == 0:
            raise RepaError(f"damaged dataset: {folder}: the manifest counts no images")
        self.manifest: Manifest = manifest
        self._ends = list(itertools.accumulate(shard.images for shard in manifest.shards))
        self._shards: dict[int, dict[str, np.ndarray]] = {}
        self._captions: dict[int, list[list[str]]] = {}
        self._texts: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}
        self._empty_texts: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        shard, row = self._locate(index)
        return {name: array[row] for name, array in self._arrays(shard).items()}

    def read(self, indices: Sequence[int], keys: Collection[str]) -> dict[str, np.ndarray]:
        """The arrays named in `keys` of some images, (n, ...) each, copied once."""
        places = [self._locate(index) for index in indices]
        batch: dict[str, np.ndarray] = {}
        for key in keys:
            rows = [self._arrays(shard)[key][row] for shard, row in places]
            batch[key] = np.stack(rows)
        return batch

    @property
    def num_classes(self) -> int:
        """Classes of the source."""
        return len(self.manifest.classes)

    @property
    def labels(self) -> np.ndarray:
        """All labels (N,), int64."""
        filled = (i for i, shard in enumerate(self.manifest.shards) if shard.images)
        return np.concatenate([self._arrays(i)["label"] for i in filled])

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """The images at `indices`: (n, 3, R, R), uint8."""
        return self.read(indices, ["image"])["image"]

    def features(self, name: str, indices: Sequence[int]) -> Tensor:
        """The cached tokens of an encoder for the images at `indices`: (n, T, D), float32."""
        arrays = self.read(indices, feature_keys(self.manifest, name))
        return unpack_features(name, {key: torch.from_numpy(a) for key, a in arrays.items()})

    def captions(self, index: int) -> list[str]:
        """The captions of one image; empty if the source had none."""
        shard, row = self._locate(index)
        if CAPTIONS not in self.manifest.shards[shard].sha256:
            return []
        if shard not in self._captions:  # a file of some megabyte takes a while to parse
            count = self.manifest.shards[shard].images
            self._captions[shard] = read_captions(shard_folder(self.folder, shard), count)
        return self._captions[shard][row]

    def read_text(self, name: str, indices: Sequence[int], uniform: Sequence[float]) -> np.ndarray:
        """A text encoder's tokens of one caption of each of some images: (n, L, D), float16.

        Args:
            name: of the text encoder.
            indices: of n images.
            uniform: n numbers u in [0, 1): an image with c captions gives number floor(u c), one
                without gives the empty caption.

        Raises:
            RepaError: if the dataset has no such text, or its files are damaged.
        """
        tokens = []
        for index, u in zip(indices, uniform, strict=True):
            shard, row = self._locate(index)
            starts, texts = self._text(shard, name)
            count = int(starts[row + 1] - starts[row])
            if count:
                tokens.append(texts[starts[row] + drawn_caption(u, count)])
            else:
                tokens.append(self.empty_text(name))
        return np.stack(tokens)

    def empty_text(self, name: str) -> np.ndarray:
        """A text encoder's tokens of the empty caption: (L, D), float16; errors as above."""
        if name not in self._empty_texts:
            record = self._text_record(name)
            path = self.folder / empty_text_file(name)
            try:
                tokens = map_array(path)
                _check_array(tokens, np.dtype("float16"), (record.length, record.dim), path.name)
            except Exception as error:  # whatever numpy makes of broken bytes
                raise RepaError(f"damaged dataset: {path}: {error}") from None
            self._empty_texts[name] = tokens
        return self._empty_texts[name]

    def __getstate__(self) -> dict:  # a worker maps the files for itself
        mapped = ("_shards", "_captions", "_texts", "_empty_texts")
        return self.__dict__ | {name: {} for name in mapped}

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _arrays(self, shard: int) -> dict[str, np.ndarray]:
        if shard not in self._shards:
            folder = shard_folder(self.folder, shard)
            try:
                arrays = {
                    key: map_array(folder / f"{name}.npy")
                    for key, name in array_names(self.manifest).items()
                }
                for key, name in array_names(self.manifest).items():
                    rows = self.manifest.shards[shard].images
                    _check_array(arrays[key], *expected_array(self.manifest, name, rows), name)
                _check_labels(arrays["label"], self.num_classes)
            except Exception as error:  # whatever numpy makes of broken bytes
                raise RepaError(f"damaged dataset: {folder}: {error}") from None
            self._shards[shard] = arrays
        return self._shards[shard]

    def _text(self, shard: int, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Of a shard: where each image's captions start (n + 1,), and their tokens (m, L, D)."""
        if (shard, name) not in self._texts:
            record, of_shard = self._text_record(name), self.manifest.shards[shard]
            folder = shard_folder(self.folder, shard)
            starts = np.zeros(of_shard.images + 1, np.int64)
            tokens = np.zeros((0, record.length, record.dim), np.float16)
            try:
                if CAPTIONS in of_shard.sha256:
                    starts = map_array(folder / f"{STARTS}.npy")
                    tokens = map_array(folder / f"{text_array(name)}.npy")
                rows = of_shard.images + 1
                _check_array(starts, *expected_array(self.manifest, STARTS, rows), STARTS)
                file, rows = text_array(name), int(starts[-1])
                _check_array(tokens, *expected_array(self.manifest, file, rows), file)
                if starts[0] != 0 or (np.diff(starts) < 0).any():
                    raise ValueError(f"{STARTS}.npy does not ascend from 0")
            except Exception as error:  # whatever numpy makes of broken bytes
                raise RepaError(f"damaged dataset: {folder}: {error}") from None
            self._texts[shard, name] = starts, tokens
        return self._texts[shard, name]

    def _text_record(self, name: str) -> TextRecord:
        if name not in self.manifest.text:
            raise RepaError(
                f"{self.folder} has no text of {name}: add it with `repa prepare --dest "
                f"{self.folder} --text-enc-type {name}`"
            )
        return self.manifest.text[name]


def array_names(manifest: Manifest) -> dict[str, str]:
    """The arrays of a dataset: their file names without .npy, by the keys that readers use."""
    names = {"image": "images", "label": "labels"}
    if manifest.autoencoder.name != "pixel":
        names["latent"] = "latents"
    for feature in manifest.features:
        names |= {key: key for key in feature_keys(manifest, feature)}
    return names


def feature_keys(manifest: Manifest, name: str) -> list[str]:
    """The arrays that hold an encoder's cached tokens."""
    return feature_arrays(name, manifest.features[name].dtype)


def text_arrays(manifest: Manifest) -> list[str]:
    """The arrays of a shard with captions that hold its text."""
    return [STARTS, *map(text_array, manifest.text)] if manifest.text else []


def expected_array(manifest: Manifest, name: str, rows: int) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape that an array of a shard should have.

    Args:
        manifest: of the dataset.
        name: of the array's file, without .npy.
        rows: that it should have.
    """
    channels, height, width = manifest.autoencoder.latent_shape
    fixed: dict[str, tuple[str, tuple[int, ...]]] = {
        "images": ("uint8", (3, manifest.resolution, manifest.resolution)),
        "labels": ("int64", ()),
        "latents": ("float32", (2 * channels, height, width)),
        STARTS: ("int64", ()),
    }
    for feature, record in manifest.features.items():
        tokens = record.grid_size**2
        fixed[FEATURES + feature] = (record.dtype, (tokens, record.dim))
        fixed[FEATURES + feature + SCALE] = ("float32", (tokens,))
    for text_encoder, text in manifest.text.items():
        fixed[text_array(text_encoder)] = ("float16", (text.length, text.dim))
    dtype, shape = fixed[name]
    return np.dtype(dtype), (rows, *shape)


def _check_array(array: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], name: str) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} {array.shape}; expected {dtype} {shape}")


def _check_labels(labels: np.ndarray, num_classes: int) -> None:
    for label in (labels.min(), labels.max()):
        if not 0 <= label < num_classes:
            raise ValueError(f"label {label}; expected 0 to {num_classes - 1}")
