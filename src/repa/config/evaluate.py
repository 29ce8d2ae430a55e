"""Options of `repa evaluate`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt

from repa.config.base import Options, RunOptions


class ClipScoreOptions(Options):
    """CLIP score of samples of texts"""

    prompts: Path | None = Field(
        None,
        description="the text of each sample, as `repa sample` writes it; by default "
        "NAME.prompts.jsonl beside the samples NAME.npz, if it is there",
    )
    clip: str = Field(
        "openai/clip-vit-large-patch14",
        description="CLIP of the score: a name on the hub, a folder, or none for no score",
    )
    clip_weights: Path | None = Field(None, description="folder with that CLIP; else downloaded")
    prompt_scores: Path | None = Field(None, description="CSV file for the score of each sample")


class EvaluateOptions(ClipScoreOptions, RunOptions):
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
    overwrite: bool = Field(False, description="replace results of other samples or settings")
