"""The layout of the published release's preprocessing: one file an image, read as it is.

    DIR/images/00000/img00000000.png               (R, R, 3)
    DIR/vae-sd/00000/img-mean-std-00000000.npy     (8, R/8, R/8) float32, mean and deviation
    DIR/vae-sd/dataset.json                        {"labels": [["00000/img-mean-...npy", 7], ...]}

Images and latents belong together by their order, and their numbers must agree.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from repa.autoencoders import SD_VAE_SCALE
from repa.data.arrays import load_array
from repa.data.format import MAX_SIDE, SHARD_ITEMS, AutoencoderRecord, Manifest, SourceRecord
from repa.data.images import decode_image
from repa.data.sources import Item, Source
from repa.data.sources.base import is_image_name
from repa.data.sources.files import Folder, is_wanted, read_labels
from repa.errors import RepaError

IMAGES, LATENTS = "images", "vae-sd"


def is_released_layout(folder: Path) -> bool:
    """Whether the release's preprocessing wrote this folder."""
    return (folder / IMAGES).is_dir() and (folder / LATENTS).is_dir()


class ReleasedSource(Source):
    """The release's layout as a source that has latents already.

    Raises:
        RepaError: if images and latents do not pair, or a latent has no label.
    """

    def __init__(self, folder: Path):
        images, latents = Folder(folder / IMAGES), Folder(folder / LATENTS)
        image_names = sorted(n for n in images.names() if is_wanted(n) and is_image_name(n))
        self.latent_names = sorted(n for n in latents.names() if n.endswith(".npy"))
        _check_pairs(folder, image_names, self.latent_names)
        labels = read_labels(f"{folder.name}/{LATENTS}", latents)
        unlabeled = [n for n in self.latent_names if n not in labels]
        if unlabeled:
            raise RepaError(f"{folder / LATENTS / 'dataset.json'} has no label for {unlabeled[0]}")
        pairs = zip(image_names, self.latent_names, strict=True)
        items = [Item(image, labels[latent]) for image, latent in pairs]
        classes = [str(i) for i in range(max(labels.values(), default=0) + 1)]
        super().__init__(folder.resolve().name, items, classes, images.read)
        self.folder = folder
        self.moments = self._read_moments

    @cached_property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        try:
            return decode_image(self.read(0)).width
        except Exception as error:  # whatever a decoder makes of broken bytes
            raise RepaError(f"cannot read {self.items[0].name} in {self.folder}: {error}") from None

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the latents."""
        path = self.folder / LATENTS / self.latent_names[0]
        try:
            shape = load_array(path, mapped=True).shape
            if len(shape) != 3 or shape[0] % 2 or 0 in shape or max(shape) > MAX_SIDE:
                raise ValueError(f"its shape is {shape}; expected one such as (8, 32, 32)")
        except Exception as error:  # whatever numpy makes of broken bytes
            raise RepaError(f"cannot read {path}: {error}") from None
        channels, height, width = shape
        return (channels // 2, height, width)

    def autoencoder(self, name: str) -> AutoencoderRecord:
        """The record of the autoencoder, whose name the layout does not tell."""
        return AutoencoderRecord(name=name, scale=SD_VAE_SCALE, latent_shape=self.latent_shape)

    def _read_moments(self, index: int) -> np.ndarray:
        path = self.folder / LATENTS / self.latent_names[index]
        moments = load_array(path)
        channels, height, width = self.latent_shape
        if moments.shape != (2 * channels, height, width) or moments.dtype != np.float32:
            raise ValueError(
                f"{path.name} is {moments.dtype} {moments.shape}; expected float32 "
                f"{(2 * channels, height, width)}"
            )
        if not np.isfinite(moments).all():
            raise ValueError(f"{path.name} holds numbers that are not finite")
        return moments


class ReleasedDataset:
    """The release's layout, read like a `PreparedDataset` but file by file.

    Args:
        folder: with `images/` and `vae-sd/`.

    Raises:
        RepaError: if the layout is broken; when reading, if a file is.
    """

    def __init__(self, folder: str | Path):
        self.source = source = ReleasedSource(Path(folder))
        self.manifest = Manifest(
            source=SourceRecord(
                name=source.name, items=len(source.items), fingerprint=source.fingerprint
            ),
            resolution=source.resolution,
            autoencoder=source.autoencoder("sd-vae-ft-mse"),  # the release's default
            classes=source.classes,
            has_captions=False,
            shard_items=SHARD_ITEMS,
            complete=True,
        )

    def __len__(self) -> int:
        return len(self.source.items)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        batch = self.read([index], ["image", "label", "latent"])
        return {key: array[0] for key, array in batch.items()}

    def read(self, indices: Sequence[int], keys: Collection[str]) -> dict[str, np.ndarray]:
        """The arrays named in `keys` of some images, (n, ...) each."""
        readers = {"image": self._image, "label": self._label, "latent": self._latent}
        return {key: np.stack([readers[key](index) for index in indices]) for key in keys}

    @property
    def num_classes(self) -> int:
        """Classes that occur."""
        return len(self.source.classes)

    @property
    def labels(self) -> np.ndarray:
        """All labels (N,), int64."""
        return np.array([item.label for item in self.source.items], np.int64)

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """The images at `indices`: (n, 3, R, R), uint8."""
        return self.read(indices, ["image"])["image"]

    def captions(self, index: int) -> list[str]:
        """None: the layout has classes only."""
        return []

    def read_text(self, name: str, indices: Sequence[int], uniform: Sequence[float]) -> np.ndarray:
        """As of a `PreparedDataset`, which this layout has not: an error."""
        raise RepaError(f"{self.source.folder} has no text: the release's layout has classes only")

    def empty_text(self, name: str) -> np.ndarray:
        """Likewise."""
        return self.read_text(name, [], [])

    def _label(self, index: int) -> np.ndarray:
        return np.array(self.source.items[index].label, np.int64)

    def _image(self, index: int) -> np.ndarray:
        name, side = self.source.items[index].name, self.manifest.resolution
        try:
            image = decode_image(self.source.read(index))
            if image.size != (side, side):
                raise ValueError(f"{image.width}x{image.height} pixels; expected {side}x{side}")
        except Exception as error:  # whatever a decoder makes of broken bytes
            raise RepaError(f"damaged dataset: {self.source.folder}: {name}: {error}") from None
        return np.asarray(image).transpose(2, 0, 1)

    def _latent(self, index: int) -> np.ndarray:
        try:
            return self.source._read_moments(index)
        except Exception as error:  # whatever numpy makes of broken bytes
            raise RepaError(f"damaged dataset: {self.source.folder}: {error}") from None


def _check_pairs(folder: Path, images: list[str], latents: list[str]) -> None:
    if len(images) != len(latents):
        raise RepaError(f"{folder} has {len(images)} images and {len(latents)} latents")
    for image, latent in zip(images, latents, strict=True):
        if _number(image) != _number(latent):
            raise RepaError(f"{folder}: image {image} and latent {latent} do not belong together")


def _number(name: str) -> int | None:
    """The last number in a file's name."""
    numbers = re.findall(r"\d+", name.rsplit("/", 1)[-1])
    return int(numbers[-1]) if numbers else None
