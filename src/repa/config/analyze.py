"""Options of `repa probe` and `repa align`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from repa.config.base import (
    PRECISION,
    DeviceOptions,
    Precision,
    Probability,
    RunOptions,
    Several,
)
from repa.config.sample import CheckpointOptions, TextEncoderOptions


class SubjectOptions(CheckpointOptions, TextEncoderOptions):
    """What to look at"""

    ckpt: Several[Path] | None = Field(
        None, description="checkpoints as `repa sample` takes them, or runs; without any, only "
        "the encoders"
    )  # fmt: skip
    every_checkpoint: bool = Field(
        False, description="all checkpoints of the runs in --ckpt, not only the newest"
    )
    depths: Several[PositiveInt] | None = Field(
        None, description="blocks after which to look, from 1; all by default"
    )
    times: Several[Probability] = Field(
        (0.1, 0.3, 0.5, 0.7, 0.9),
        description="how noisy the images are; 0 is data, 1 is noise. Of DiT the part of "
        "its steps, which is not SiT's noise at that time",
    )
    enc_type: str | None = Field(
        None, description="encoders to compare with, with commas, or none; by default those that "
        "the checkpoints were aligned to"
    )  # fmt: skip
    encoder_weights: Path = Field(
        Path("ckpts"), description="file or folder with the encoders' weights"
    )


class WorkOptions(DeviceOptions):
    """Work and result"""

    batch_size: PositiveInt = Field(64, description="images at a time, on each process")
    mixed_precision: Precision = Field("no", description="of the models: " + PRECISION)
    output_dir: Path = Field(Path("analysis"), description="folder of results and figures")
    overwrite: bool = Field(
        False, description="begin anew where --output-dir has results of other images or settings"
    )


class ProbeOptions(SubjectOptions, WorkOptions, RunOptions):
    """Train linear classifiers on the hidden states of checkpoints, block by block."""

    data_dir: Path = Field(description="prepared dataset whose images train the classifiers")
    val_dir: Path | None = Field(
        None, description="prepared dataset that tests them; by default every fifth image of "
        "--data-dir, which then does not train them"
    )  # fmt: skip
    train_images: PositiveInt = Field(50_000, description="at most, evenly spread")
    val_images: PositiveInt = Field(10_000, description="at most, evenly spread")

    @model_validator(mode="after")
    def _test_images_do_not_train(self) -> ProbeOptions:
        if self.val_dir is not None and self.val_dir.resolve() == self.data_dir.resolve():
            raise ValueError(
                "--val-dir is --data-dir: leave it out, then every fifth image tests and does not "
                "train"
            )
        return self


class AlignOptions(SubjectOptions, WorkOptions):
    """Compare the hidden states of checkpoints with encoders, and encoders with each other."""

    data_dir: Path = Field(description="prepared dataset, best of images not trained on")
    num_images: PositiveInt = Field(10_000, description="at most, evenly spread")
    neighbors: PositiveInt = Field(10, description="k of CKNNA and mutual nearest neighbors")
    pooling: Literal["mean", "patch"] = Field(
        "mean", description="mean: of an image's tokens, as published; patch: one of its tokens, "
        "its place drawn by chance"
    )  # fmt: skip

    @model_validator(mode="after")
    def _something_to_compare(self) -> AlignOptions:
        if self.neighbors < 2:
            raise ValueError("--neighbors 1: CKNNA needs at least 2")
        if self.ckpt is None and self.enc_type is None:
            raise ValueError("give --ckpt, or the encoders to compare as --enc-type")
        return self
