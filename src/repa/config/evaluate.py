"""Options of `repa evaluate`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt

from repa.config.base import RunOptions


class EvaluateOptions(RunOptions):
    """Measure samples against reference images."""

    samples: Path = Field(description="npz with arr_0, images as --source takes, or a dataset")
    reference: Path = Field(description="the same, or an npz with statistics")
    network: str = Field(
        "inception",
        description="network whose features are compared: inception (FID), dinov2, clip (CMMD), "
        "efficientnet-lite0 to 2, or classifier (of the samples' own classes)",
    )
    network_weights: Path | None = Field(
        None,
        description="file with the network's weights, which classifier needs; by default "
        "cached or downloaded",
    )
    batch_size: PositiveInt = Field(64, description="images at a time, on each process")
    neighbors: PositiveInt = Field(3, description="k of precision and recall")
    save_stats: Path | None = Field(
        None, description="npz for what the reference amounts to, to give as --reference later"
    )
    nearest: Path | None = Field(
        None,
        description="PNG of the samples nearest to reference images, each beside its three nearest "
        "ones; the result says how many are copies",
    )
    output: Path | None = Field(None, description="JSON file for the result")
