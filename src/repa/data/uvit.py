"""U-ViT's extracted features of MS-COCO, which the release's text-to-image training reads.

DIR/empty_context.npy      (77, 768): CLIP's tokens of the empty caption
DIR/train/0.npy            (8, R/8, R/8) float32: mean and LOG-VARIANCE of the latents
          0_0.npy, 0_1.npy, ...    (77, 768): CLIP's tokens of the image's captions
          0.png            (R, R, 3): the image, which the release adds for its target encoder
DIR/val/                   likewise
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from repa.autoencoders import SD_VAE_SCALE
from repa.data.arrays import load_array
from repa.data.format import (
    MAX_SIDE,
    SHARD_ITEMS,
    AutoencoderRecord,
    Manifest,
    SourceRecord,
    TextRecord,
)
from repa.data.images import decode_image
from repa.data.sources.files import Folder
from repa.data.text import drawn_caption
from repa.errors import RepaError, first_line

TEXT = "clip-vit-l"
LENGTH, DIM = 77, 768  # of its tokens
EMPTY = "empty_context.npy"
SPLIT = "train"  # of a folder that holds several
DOWNSAMPLING = 8  # of SD-VAE
MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0  # where diffusers, too, cuts it off
FINGERPRINTED = 16  # images whose files are read for the fingerprint
NUMBERED = re.compile(r"(0|[1-9]\d*)(?:_(0|[1-9]\d*))?\.npy")


def is_uvit_layout(folder: Path) -> bool:
    """Whether a folder holds U-ViT's features, of one split or of several."""
    return any((folder / file).is_file() for file in (EMPTY, "0.npy", f"{SPLIT}/0.npy"))


class UViTDataset:
    """U-ViT's features, read like a `PreparedDataset` but file by file.

    Items have `latent` (8, S, S) float32, mean and standard deviation; `label`, 0; and, where the
    PNG files are there, `image` (3, 8 S, 8 S) uint8. The captions' tokens are read by `read_text`;
    their words are not in the layout.

    Args:
        folder: with `empty_context.npy` and `train/`; or one split, `empty_context.npy` in it or in
            its parent.

    Raises:
        RepaError: if the layout is broken; when reading, if a file is or is not there.
    """

    def __init__(self, folder: str | Path):
        inner = Path(folder) / SPLIT
        self.folder = inner if inner.is_dir() else Path(folder)
        self._counts = _count_captions(self.folder)
        places = [self.folder / EMPTY, self.folder.resolve().parent / EMPTY]
        self._empty = _read_tokens(next((path for path in places if path.is_file()), places[1]))
        _read_tokens(self.folder / "0_0.npy")  # features of another text encoder end here
        latent_shape = _latent_shape(self.folder / "0.npy")
        self.manifest = Manifest(
            source=SourceRecord(
                name=f"U-ViT-{self.folder.resolve().name}",
                items=len(self),
                fingerprint=_fingerprint(self.folder, self._counts, self._empty),
            ),
            resolution=latent_shape[1] * DOWNSAMPLING,
            autoencoder=AutoencoderRecord(
                name="sd-vae-ft-mse",  # the release's for text to image
                scale=SD_VAE_SCALE,
                latent_shape=latent_shape,
            ),
            text={TEXT: TextRecord(length=LENGTH, dim=DIM, mask_padding=False)},
            classes=["image"],
            has_captions=False,
            shard_items=SHARD_ITEMS,
            complete=True,
        )

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        images = ["image"] if (self.folder / f"{index}.png").is_file() else []
        batch = self.read([index], ["label", "latent", *images])
        return {key: array[0] for key, array in batch.items()}

    def read(self, indices: Sequence[int], keys: Collection[str]) -> dict[str, np.ndarray]:
        """The arrays named in `keys` of some images, (n, ...) each."""
        readers = {"image": self._image, "label": self._label, "latent": self._latent}
        return {key: np.stack([readers[key](index) for index in indices]) for key in keys}

    def read_text(
        self, name: str, indices: Sequence[int], uniform: Sequence[float] | np.ndarray
    ) -> np.ndarray:
        """The tokens of one caption of each image: (n, 77, 768), float32.

        Args:
            name: of the text encoder.
            indices: of the images.
            uniform: (n,) in [0, 1): of `count` captions it is number floor(u count).

        Raises:
            RepaError: if these are not the encoder's features, or a file is broken.
        """
        self._check_name(name)
        tokens = []
        for index, u in zip(indices, uniform, strict=True):
            caption = drawn_caption(u, int(self._counts[self._checked(index)]))
            tokens.append(_read_tokens(self.folder / f"{index}_{caption}.npy"))
        return np.stack(tokens)

    def empty_text(self, name: str) -> np.ndarray:
        """The tokens of the empty caption: (77, 768), float32.

        Raises:
            RepaError: if these are not the encoder's features.
        """
        self._check_name(name)
        return self._empty

    def captions(self, index: int) -> list[str]:
        """Empty: the layout has the captions' tokens, not their words."""
        self._checked(index)
        return []

    @property
    def num_classes(self) -> int:
        """One, for all images."""
        return len(self.manifest.classes)

    @property
    def labels(self) -> np.ndarray:
        """Zeros (N,), int64."""
        return np.zeros(len(self), np.int64)

    def images(self, indices: Sequence[int]) -> np.ndarray:
        """The images at `indices`: (n, 3, R, R), uint8."""
        return self.read(indices, ["image"])["image"]

    def _label(self, index: int) -> np.ndarray:
        self._checked(index)
        return np.array(0, np.int64)

    def _image(self, index: int) -> np.ndarray:
        path, side = self.folder / f"{self._checked(index)}.png", self.manifest.resolution
        if not path.exists():
            raise RepaError(
                f"no image {path}: put the {side}x{side} images beside the features, as the "
                "release does; a target encoder needs them"
            )
        try:
            image = decode_image(Folder(self.folder).read(path.name))
            if image.size != (side, side):
                raise ValueError(f"{image.width}x{image.height} pixels; expected {side}x{side}")
        except Exception as error:  # whatever a decoder makes of broken bytes
            raise RepaError(f"damaged dataset: {path}: {error}") from None
        return np.asarray(image).transpose(2, 0, 1)

    def _latent(self, index: int) -> np.ndarray:
        """Mean and standard deviation, as this project stores them."""
        channels, height, width = self.manifest.autoencoder.latent_shape
        path = self.folder / f"{self._checked(index)}.npy"
        mean, log_variance = np.split(_read_array(path, (2 * channels, height, width)), 2)
        log_variance = log_variance.clip(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return np.concatenate([mean, np.exp(0.5 * log_variance)])

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return index

    def _check_name(self, name: str) -> None:
        if name != TEXT:
            raise RepaError(f"{self.folder} has text features of {TEXT}, none of {name}")


def _count_captions(folder: Path) -> np.ndarray:
    """Captions of each image (N,), int64, by the names of the files."""
    images: set[int] = set()
    captions: dict[int, set[int]] = defaultdict(set)
    try:
        with os.scandir(folder) as entries:  # there may be half a million
            names = [NUMBERED.fullmatch(entry.name) for entry in entries]
    except OSError as error:
        raise RepaError(f"cannot read {folder}: {error.strerror}") from None
    for name in filter(None, names):
        if name[2] is None:
            images.add(int(name[1]))
        else:
            captions[int(name[1])].add(int(name[2]))
    expected = set(range(max(len(images), 1)))
    if images != expected:
        raise RepaError(
            f"no {min(expected - images)}.npy in {folder}: expected 0.npy, 1.npy and so on; give "
            f"the folder that holds {SPLIT}/, or that of one split"
        )
    strays = captions.keys() - images
    if strays:
        raise RepaError(
            f"{folder} has captions of images that are not there: {len(strays)}, the first is "
            f"{min(strays)}.npy"
        )
    lacking = [i for i in sorted(images) if captions[i] != set(range(max(len(captions[i]), 1)))]
    if lacking:
        raise RepaError(
            f"{folder} has images that lack captions: {len(lacking)}, the first is "
            f"{lacking[0]}.npy; expected {lacking[0]}_0.npy, {lacking[0]}_1.npy and so on"
        )
    return np.array([len(captions[i]) for i in sorted(images)], np.int64)


def _fingerprint(folder: Path, counts: np.ndarray, empty: np.ndarray) -> str:
    """A SHA-256 that tells these features from others, though few of half a million are read.

    The names of all files, which the numbers of captions (N,) say; the empty caption's tokens
    (77, 768); and latents and first captions of images spread over all. Other images, captions in
    another order, or another network change nearly every file, so some that are read. Sizes of
    files are all alike.

    Raises:
        RepaError: if one cannot be read.
    """
    digest = hashlib.sha256(counts.tobytes() + empty.tobytes())
    for index in np.linspace(0, len(counts) - 1, min(FINGERPRINTED, len(counts)), dtype=int):
        for name in (f"{index}.npy", f"{index}_0.npy"):
            try:
                digest.update(Folder(folder).read(name))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise RepaError(f"damaged dataset: {folder / name}: {reason}") from None
    return digest.hexdigest()


def _latent_shape(path: Path) -> tuple[int, int, int]:
    """Shape (C, H, W) of the latents in a file of moments."""
    shape = _read_array(path, None).shape
    if len(shape) != 3 or shape[0] % 2 or 0 in shape or max(shape) > MAX_SIDE // DOWNSAMPLING:
        raise RepaError(f"damaged dataset: {path} has the shape {shape}; expected (8, 32, 32)")
    return (shape[0] // 2, shape[1], shape[2])


def _read_tokens(path: Path) -> np.ndarray:
    """A caption's tokens (77, 768), float32."""
    return _read_array(path, (LENGTH, DIM))


def _read_array(path: Path, shape: tuple[int, ...] | None) -> np.ndarray:
    """An array as float32, checked; of any shape if that is None."""
    try:
        array = load_array(path)
        if array.dtype not in (np.float32, np.float16) or array.shape != (shape or array.shape):
            raise ValueError(f"{array.dtype} {array.shape}; expected float32 {shape or ''}")
        if not np.isfinite(array).all():
            raise ValueError("numbers that are not finite")
    except FileNotFoundError:
        raise RepaError(f"damaged dataset: {path} is not there") from None
    except Exception as error:  # whatever numpy makes of broken bytes
        raise RepaError(f"damaged dataset: {path}: {first_line(error)}") from None
    return array.astype(np.float32, copy=False)
