"""Options of `repa convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from repa.config.base import Options


class ConvertOptions(Options):
    """Translate a checkpoint: ours, the release's, or a folder to publish."""

    ckpt: Path = Field(
        description="a checkpoint of any format; `released` is the published SiT-XL/2, downloaded"
    )
    dest: Path = Field(description="what to write: a folder, or for `released` a file NAME.pt")
    to: Literal["repa", "released", "pretrained"] = Field(
        description="repa: a checkpoint to sample and continue from; released: a file for the "
        "release's scripts; pretrained: a folder for from_pretrained, with a model card"
    )
    model: str | None = Field(
        None, description="checked against the checkpoint; tells DiT's own files from SiT's"
    )
    encoder_depth: PositiveInt | None = Field(
        None, description="only for early released files, whose block names depend on it"
    )
    overwrite: bool = Field(False, description="replace a checkpoint that is at --dest")
