"""The prepared dataset on disk.

    DIR/manifest.json           what it holds, how it was made, a record of each shard
    DIR/shards/00000/shard.json          this shard's record: images, what was skipped, checksums
                     images.npy          uint8 (n, 3, R, R)
                     labels.npy          int64 (n,)
                     latents.npy         float32 (n, 2 C, H, W), mean and deviation; not for pixels
                     features.NAME.npy   float16 (n, T, D), one a cached encoder; or int8, with
                     features.NAME.scale.npy  float32 (n, T)
                     captions.json       a list of captions for each image, if any has one
                     text.NAME.npy       float16 (m, L, D), one a text encoder: its tokens of each
                                         caption, images in order, each image's captions in order
                     text.starts.npy     int64 (n + 1,): image i has the captions starts[i] to
                                         starts[i + 1]
    DIR/text.NAME.empty.npy     float16 (L, D): a text encoder's tokens of the empty caption

Arrays are plain .npy files, read by memory mapping. A shard covers a fixed range of the source's
items. It is renamed into place when its images are whole; latents, features and text join it later,
each entered into its record when whole. So what a killed run leaves is a smaller dataset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from repa.config import Precision
from repa.data.arrays import check_regular
from repa.data.features import FeatureDtype, feature_arrays
from repa.data.text import text_array
from repa.errors import RepaError
from repa.files import write_atomically

MANIFEST = "manifest.json"
RECORD = "shard.json"
CAPTIONS = "captions.json"
SHARD_ITEMS = 4096  # source items a shard
MAX_FILE = 1 << 29  # bytes of a manifest, or of a shard's captions; more is a mistake or an attack
MAX_SIDE = 1 << 20  # of an array
MAX_COUNT = 1 << 40  # of anything; more is one, too, and too much for numpy and Python's `len`
CAPTION_LISTS = TypeAdapter(list[list[str]])
Model = TypeVar("Model", bound=BaseModel)


Natural = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Size = Annotated[int, Field(ge=1, le=MAX_SIDE)]
# Names of files and parts of such names: a dataset may be a stranger's, and stays in its folder.
Name = Annotated[str, Field(pattern=r"^[^/\\\x00]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SourceRecord(_Strict):
    """Which source: its name, number of items, and the hash of its listing.

    The number is None for a stream that does not tell it, until it has been read.
    """

    name: str
    items: Count | None
    fingerprint: str


class AutoencoderRecord(_Strict):
    """Which autoencoder, shift and scale of its latents and their shape (C, H, W)."""

    name: str
    scale: float = 1.0
    shift: float = 0.0
    latent_shape: tuple[Size, Size, Size]


class FeatureRecord(_Strict):
    """Cached tokens of one encoder: tokens a side, width, how stored, and what computed them.

    `weights` is the encoder's fingerprint.
    """

    grid_size: Size
    dim: Size
    dtype: FeatureDtype = "float16"
    precision: Precision = "no"
    weights: str = ""


class TextRecord(_Strict):
    """Captions' tokens of one text encoder: their number, width, and what computed them.

    `mask_padding` says that tokens of zeros are padding. `weights` is the encoder's fingerprint.
    `truncated` counts the captions of more than `length` tokens, `empty_sha256` is the checksum of
    the empty caption's file: both are known when the text is finished.
    """

    length: Size
    dim: Size
    mask_padding: bool
    weights: str = ""
    precision: Precision = "no"
    truncated: Natural = 0
    empty_sha256: str = ""


class ShardRecord(_Strict):
    """One shard: its number of images, what was skipped, and the SHA-256 of each file.

    `truncated` counts the captions that were cut, for each text encoder.
    """

    name: str
    images: Annotated[int, Field(ge=0, le=1 << 31)]  # so that many shards' can be added up
    skipped: dict[str, str]
    sha256: dict[Name, str]
    truncated: dict[str, Natural] = {}

    @property
    def items(self) -> int:
        """Source items that it covers."""
        return self.images + len(self.skipped)


class Manifest(_Strict):
    """What `manifest.json` says."""

    format: Literal["repa-dataset"] = "repa-dataset"
    version: Literal[1] = 1
    source: SourceRecord
    resolution: Size
    crop: Literal["adm-center"] = "adm-center"
    autoencoder: AutoencoderRecord
    features: dict[Name, FeatureRecord] = {}
    unfinished_features: dict[Name, FeatureRecord] = {}  # in some shards only: not to be read
    text: dict[str, TextRecord] = {}
    unfinished_text: dict[str, TextRecord] = {}  # likewise
    classes: list[str]
    has_captions: bool
    max_images: Count | None = None
    shard_items: Count
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

    def encoded_files(self) -> set[str]:
        """Names of the files of a shard that must be encoded from its images or captions."""
        files = set() if self.autoencoder.name == "pixel" else {"latents.npy"}
        for name, record in (self.features | self.unfinished_features).items():
            files |= {f"{array}.npy" for array in feature_arrays(name, record.dtype)}
        return files | self._text_files()

    def lacking_files(self, record: ShardRecord) -> set[str]:
        """Those of them that a shard should have and its record does not name.

        A shard without images has none of them, one without captions no text.
        """
        needed = self.encoded_files() if record.images else set()
        if CAPTIONS not in record.sha256:
            needed -= self._text_files()
        return needed - record.sha256.keys()

    def _text_files(self) -> set[str]:
        return {f"{text_array(name)}.npy" for name in self.text | self.unfinished_text}


def shard_folder(dataset: Path, number: int) -> Path:
    """Where the number-th shard of a dataset lies."""
    return dataset / "shards" / f"{number:05d}"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in `folder`, or None if there is none.

    Raises:
        RepaError: if it is not one of ours.
    """
    return _read(folder / MANIFEST, Manifest, "manifest")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces the manifest in one step."""
    _write(folder / MANIFEST, manifest)


def read_record(shard: Path) -> ShardRecord | None:
    """The record in a shard's folder, or None if there is none.

    Raises:
        RepaError: if it is not one of ours.
    """
    return _read(shard / RECORD, ShardRecord, "shard record")


def write_record(shard: Path, record: ShardRecord) -> None:
    """Replaces a shard's record in one step."""
    _write(shard / RECORD, record)


def read_captions(shard: Path, count: int) -> list[list[str]]:
    """The captions of each image of a shard that has some.

    Args:
        shard: its folder.
        count: of its images.

    Raises:
        RepaError: if the file is missing or not of this form.
    """
    path = shard / CAPTIONS
    try:
        captions = CAPTION_LISTS.validate_json(_content(path))
        if len(captions) != count:
            raise ValueError(f"captions of {len(captions)} images; expected {count}")
    except ValidationError as error:
        raise RepaError(f"damaged dataset: {path}{_first_problem(error)}") from None
    except (OSError, ValueError) as error:
        raise RepaError(f"damaged dataset: {path}: {error}") from None
    return captions


def _read(path: Path, model: type[Model], kind: str) -> Model | None:
    if not path.exists():
        return None
    try:
        return model.model_validate_json(_content(path))
    except ValidationError as error:
        raise RepaError(f"{path} is not a valid {kind}{_first_problem(error)}") from None
    except OSError as error:
        raise RepaError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise RepaError(f"cannot read {path}: {error}") from None


def _content(path: Path) -> bytes:
    check_regular(path)
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"{path.stat().st_size} bytes; expected at most {MAX_FILE}")
    return path.read_bytes()


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{f' at {where}' if where else ''}: {first['msg']}"


def _write(path: Path, value: BaseModel) -> None:
    write_atomically(path, value.model_dump_json(indent=1).encode() + b"\n")
