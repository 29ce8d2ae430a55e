"""Options of `repa evaluate`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt

from repa.config.base import RunOptions


class EvaluateOptions(RunOptions):
    """Measure samples against reference images."""

    samples: Path = Field(description="npz with arr_0, images as --source takes, or a dataset")
    reference: Path = Field(description="npz with arr_0, images as --source takes, or a dataset")
    network: str = Field("efficientnet-lite2", description="network whose features are compared")
    batch_size: PositiveInt = Field(64, description="images at a time")
    neighbors: PositiveInt = Field(3, description="k of precision and recall")
    output: Path | None = Field(None, description="JSON file for the result")
