"""Options of `repa sample`, and of every other place that draws samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from repa.config.base import PRECISION, Options, Precision, Probability, RunOptions


class SamplerOptions(Options):
    """Sampler"""

    mode: Literal["ode", "sde"] = Field("ode", description="probability-flow ODE or reverse SDE")
    num_steps: Annotated[int, Field(ge=2)] = Field(50, description="steps of the sampler")
    heun: bool = Field(False, description="second-order steps (ode)")
    cfg_scale: Annotated[float, Field(ge=1)] = Field(1.0, description="guidance; 1 is none")
    guidance_low: Probability = Field(0.0, description="guide from this time ...")
    guidance_high: Probability = Field(1.0, description="... to this time; 1 is noise")

    @model_validator(mode="after")
    def _interval_is_not_empty(self) -> SamplerOptions:
        if self.guidance_low > self.guidance_high:
            raise ValueError(
                f"--guidance-low {self.guidance_low} is above --guidance-high {self.guidance_high}"
            )
        return self


class SampleOptions(SamplerOptions, RunOptions):
    """Generate images from a checkpoint: PNG files and an npz that evaluation suites read."""

    ckpt: Path = Field(description="a run's folder (its newest checkpoint), or a checkpoint")
    sample_dir: Path = Field(Path("samples"), description="folder of the images")
    num_fid_samples: PositiveInt = Field(50_000, description="number of images")
    per_proc_batch_size: PositiveInt = Field(32, description="images at a time")
    classes: str = Field(
        "random", description="random, or labels with commas, one image of each in turn"
    )
    raw_weights: bool = Field(False, description="the trained weights instead of their average")
    mixed_precision: Precision = Field("no", description=PRECISION)
