"""Options of `repa prepare` and `repa encoders`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from repa.config.base import PRECISION, DeviceOptions, Options, Precision


class SourceOptions(Options):
    """Source and destination"""

    source: str | None = Field(
        None,
        description="folder, zip, ImageNet, MS-COCO, tar shards, parquet or arrow files, hf:NAME, "
        "the release's layout, or twemoji, twemoji-train, twemoji-val; without it, what --dest "
        "lacks is added from the images in it",
    )
    dest: Path | None = Field(None, description="folder of the prepared dataset")
    verify: Path | None = Field(
        None, description="check this dataset against its manifest, and do nothing else"
    )
    split: str | None = Field(
        None, description="part of a Hugging Face dataset, ImageNet or MS-COCO; train by default"
    )
    streaming: bool = Field(False, description="read a Hugging Face dataset without storing it")
    image_column: str | None = Field(None, description="of a Hugging Face dataset, if not found")
    label_column: str | None = Field(None, description="likewise")
    caption_column: str | None = Field(None, description="likewise")
    max_images: PositiveInt | None = Field(
        None, description="use only so many of the source's files, evenly spread"
    )
    strict: bool = Field(False, description="end at a broken image instead of skipping it")


class EncodingOptions(Options):
    """Encoding"""

    resolution: PositiveInt | None = Field(
        None, description="image side in pixels; by default 256, or what --dest has"
    )
    autoencoder: str | None = Field(
        None,
        description="sd-vae-ft-mse, sd-vae-ft-ema, a local folder, or pixel; by default "
        "sd-vae-ft-mse, or what --dest has",
    )
    enc_type: str = Field("none", description="target encoders whose tokens to cache")
    encoder_weights: Path = Field(
        Path("ckpts"), description="file or folder with the encoders' weights"
    )
    feature_grid: PositiveInt | None = Field(
        None, description="tokens a side of cached features; the encoder's own by default"
    )
    feature_dtype: Literal["float16", "int8"] = Field(
        "float16", description="of cached features; int8 has a scale for each token"
    )
    text_enc_type: str = Field(
        "none", description="text encoders whose tokens of the captions to store"
    )
    text_encoder_weights: Path | None = Field(
        None, description="folder with the text encoder's weights, if not on the hub or packaged"
    )
    mixed_precision: Precision = Field("no", description="of the encoders: " + PRECISION)
    batch_size: PositiveInt = Field(
        64, description="images encoded at a time, or all captions of so many"
    )
    num_workers: NonNegativeInt | None = Field(
        None, description="decoding processes; by default the number of cores, at most 8"
    )


class PrepareOptions(EncodingOptions, SourceOptions, DeviceOptions):
    """Turn a source of images into a prepared dataset, add to one, or verify one."""

    @model_validator(mode="after")
    def _one_folder(self) -> PrepareOptions:
        if (self.dest is None) == (self.verify is None):
            raise ValueError("give --dest DIR to prepare a dataset, or --verify DIR to check one")
        of_source = self.model_fields_set & SourceOptions.model_fields.keys()
        of_source -= {"source", "dest", "verify"}
        if self.source is None and of_source:
            raise ValueError(f"--{min(of_source).replace('_', '-')} needs --source")
        return self


class EncodersOptions(Options):
    """List the target encoders and whether their weights are on this machine."""

    resolution: PositiveInt = Field(256, description="image side in pixels")
    encoder_weights: Path = Field(Path("ckpts"), description="folder of weight files")
