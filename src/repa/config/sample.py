"""Options of `repa sample`, of the published generate.py, and of all that draws samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from repa.config.base import PRECISION, Options, Precision, Probability, RunOptions, Seed, Several

Mode = Literal["ode", "sde", "ddim", "ddpm"]


class SamplerOptions(Options):
    """Sampler"""

    mode: Mode | None = Field(
        None, description="SiT, MMDiT: ode (by default), sde; DiT: ddim (by default), ddpm"
    )
    num_steps: Annotated[int, Field(ge=2)] = Field(50, description="steps of the sampler")
    heun: bool = Field(False, description="second-order steps (ode)")
    cfg_scale: Annotated[float, Field(ge=1)] = Field(1.0, description="guidance; 1 is none")
    guidance_low: Probability = Field(0.0, description="guide from this time ...")
    guidance_high: Probability = Field(1.0, description="... to this time; 1 is noise")
    guide_all_channels: bool = Field(
        False, description="DiT: guide all channels; as released, it guides the first three"
    )

    @model_validator(mode="after")
    def _interval_is_not_empty(self) -> SamplerOptions:
        if self.guidance_low > self.guidance_high:
            raise ValueError(
                f"--guidance-low {self.guidance_low} is above --guidance-high {self.guidance_high}"
            )
        return self


class ImageOptions(Options):
    """Images"""

    num_fid_samples: PositiveInt = Field(
        50_000, description="number of images; with texts, by default one each"
    )
    classes: str = Field(
        "random",
        description="random; balanced; labels or names with commas, taken in turn; or a text file "
        "with the label of each image on its line",
    )
    seeding: Literal["image", "official"] = Field(
        "image",
        description="image: the seed and an image's index decide on it, whatever the batch; "
        "official: the release's random stream for this batch size and number of processes",
    )
    png: bool = Field(False, description="also write each image as a PNG file")
    overwrite: bool = Field(False, description="replace other samples of the same name")


class TextEncoderOptions(Options):
    """Text encoder (MMDiT)"""

    text_enc_type: str | None = Field(
        None, description="of a checkpoint that does not say its own; else clip-vit-l"
    )
    text_encoder_weights: Path | None = Field(
        None, description="folder with the text encoder; else downloaded"
    )


class PromptOptions(TextEncoderOptions):
    """Texts (MMDiT)"""

    prompt: Several[str] | None = Field(None, description="texts to draw, one or more, in turn")
    prompts_file: Path | None = Field(None, description="text file with one on each line")
    captions: Path | None = Field(
        None, description="prepared dataset: draw the first caption of each of its images"
    )


class CheckpointOptions(Options):
    """Reading the checkpoint"""

    raw_weights: bool = Field(False, description="the trained weights instead of their average")
    model: str | None = Field(
        None, description="checked against the checkpoint; tells DiT's own files from SiT's"
    )
    encoder_depth: PositiveInt | None = Field(
        None, description="only for early released files, whose block names depend on it"
    )
    path_type: Literal["linear", "cosine"] | None = Field(
        None, description="of a file that does not say it; linear by default"
    )
    prediction: Literal["v", "eps", "x"] | None = Field(None, description="likewise; v by default")


class InferenceOptions(Options):
    """Decoding and precision"""

    vae: str | None = Field(
        None, description="mse, ema or a local folder; by default that of the training data"
    )
    per_proc_batch_size: PositiveInt = Field(32, description="images at a time in each process")
    mixed_precision: Precision = Field("no", description=PRECISION)
    allow_tf32: bool = Field(False, description="TF32 matrix products on CUDA")
    fused_attn: bool = Field(True, description="PyTorch's fused attention kernels")
    compile: bool = Field(False, description="torch.compile; needs a C++ compiler")


class DrawOptions(
    InferenceOptions, CheckpointOptions, PromptOptions, ImageOptions, SamplerOptions, RunOptions
):
    """What decides on samples of a given model, and how they are drawn."""


class SampleOptions(DrawOptions):
    """Generate images from a checkpoint, as the npz that evaluation suites read."""

    ckpt: Path = Field(
        description="a run's folder (its newest checkpoint), a checkpoint, a from_pretrained "
        "folder, a file of the release, SiT or DiT; `released` is the published SiT-XL/2"
    )
    sample_dir: Path = Field(
        Path("samples"), description="name of the samples: NAME.npz, and NAME/*.png with --png"
    )


class ObsoleteOptions(Options):
    """Accepted without effect"""

    projector_embed_dims: str = Field("", description="projection heads are for training only")
    qk_norm: bool = Field(False, description="the weights say whether the model has it")
    legacy: bool = Field(False, description="early names of weights are recognized")


class GenerateOptions(ObsoleteOptions, DrawOptions):
    """Generate images with the published command line and its defaults."""

    ckpt: Path | None = Field(
        None, description="as of `repa sample`; by default the released SiT-XL/2, downloaded"
    )
    sample_dir: Path = Field(Path("samples"), description="folder of all samples")
    global_seed: Seed = Field(0, description="the published name of --seed")
    tf32: bool = Field(True, description="the published name of --allow-tf32")
    allow_tf32: bool = Field(True, description="TF32 matrix products on CUDA")
    encoder_depth: PositiveInt | None = Field(
        8, description="only for early released files, whose block names depend on it"
    )
    vae: str | None = Field(
        None, description="mse, ema or a local folder; ema by default, for latents of SD-VAE"
    )
    resolution: PositiveInt | None = Field(None, description="checked against the checkpoint")
    num_classes: PositiveInt | None = Field(None, description="likewise")
    cfg_scale: Annotated[float, Field(ge=1)] = Field(1.5, description="guidance; 1 is none")
    png: bool = Field(True, description="also write each image as a PNG file")

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: dict[str, Any]) -> dict[str, Any]:
        for published, name in (("global_seed", "seed"), ("tf32", "allow_tf32")):
            if published in values:
                if name in values:
                    flags = (f"--{n.replace('_', '-')}" for n in (published, name))
                    raise ValueError(f"give {' or '.join(flags)}, not both")
                values = values | {name: values[published]}
        return values
