"""Every option of every command, once: its type, default, bounds and meaning.

A command's options are a class made of groups. The same class validates the command line and YAML
recipes (`repa.commandline`), so a recipe is any of these names with a value. Names are those of the
published command lines, with dashes there and underscores here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Probability = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "no", "fp16", "bf16"]
PRECISION = (
    "mixed precision; auto is bf16 where the hardware has it, else fp16 on CUDA and none on CPU"
)


class Options(BaseModel):
    """Base of the groups: unknown names are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DeviceOptions(Options):
    """Machine"""

    device: Literal["cpu", "cuda"] | None = Field(
        None, description="by default cuda where there is one, else cpu"
    )


class RunOptions(DeviceOptions):
    """Randomness"""

    seed: NonNegativeInt = Field(0, description="of everything random")


class ExperimentOptions(Options):
    """Experiment"""

    exp_name: str = Field(description="name of the run: its folder below the output folder")
    output_dir: Path = Field(Path("exps"), description="folder of all runs")
    resume: Literal["auto", "no"] = Field(
        "auto", description="auto continues from the run's newest checkpoint, if it has one"
    )
    report_to: Literal["tensorboard", "wandb", "none"] = Field(
        "tensorboard", description="where metrics go besides metrics.jsonl"
    )
    logging_steps: PositiveInt = Field(100, description="steps between log lines")
    checkpointing_steps: PositiveInt = Field(50_000, description="steps between checkpoints")
    sampling_steps: PositiveInt = Field(10_000, description="steps between preview grids")


class TrainingDataOptions(Options):
    """Data"""

    data_dir: Path = Field(
        description="prepared dataset (`repa prepare --dest`), or the layout of the release's"
    )
    resolution: PositiveInt | None = Field(
        None, description="image side in pixels; checked against the dataset"
    )
    num_classes: PositiveInt | None = Field(
        None, description="classes of the model; the dataset's by default"
    )
    num_workers: NonNegativeInt | None = Field(
        None, description="reading threads; by default 4, or none when training on the CPU"
    )


class ModelOptions(Options):
    """Model"""

    model: str = Field(description="backbone: SiT-{Ti,S,B,L,XL}/{2,4,8}")
    fused_attn: bool = Field(True, description="PyTorch's fused attention kernels")
    qk_norm: bool = Field(False, description="LayerNorm on queries and keys")
    compile: bool = Field(False, description="torch.compile; needs a C++ compiler")


class AlignmentOptions(Options):
    """Representation alignment"""

    enc_type: str = Field(
        "dinov2-vit-b",
        description="target encoder, or several with commas; none trains the plain model",
    )
    encoder_weights: Path = Field(
        Path("ckpts"),
        description="file, or folder of official files, with the encoder's weights; "
        "else downloaded",
    )
    encoder_depth: PositiveInt = Field(8, description="block whose output is aligned, from 1")
    proj_coeff: NonNegativeFloat = Field(0.5, description="weight of the alignment loss")
    projector_dim: PositiveInt = Field(2048, description="inner width of the projection heads")


class ObjectiveOptions(Options):
    """Objective"""

    path_type: Literal["linear", "cosine"] = Field("linear", description="from data to noise")
    prediction: Literal["v"] = Field("v", description="what the model predicts: velocity")
    weighting: Literal["uniform", "lognormal"] = Field(
        "uniform", description="distribution of the training times"
    )
    cfg_prob: Probability = Field(0.1, description="probability of dropping the label")


class OptimizationOptions(Options):
    """Optimization"""

    max_train_steps: PositiveInt = Field(400_000, description="optimizer steps")
    batch_size: PositiveInt = Field(256, description="over all processes")
    gradient_accumulation_steps: PositiveInt = Field(1, description="batches a step")
    learning_rate: PositiveFloat = Field(1e-4, description="of AdamW, constant")
    adam_beta1: Probability = Field(0.9, description="of AdamW")
    adam_beta2: Probability = Field(0.999, description="of AdamW")
    adam_weight_decay: NonNegativeFloat = Field(0.0, description="of AdamW")
    adam_epsilon: PositiveFloat = Field(1e-8, description="of AdamW")
    max_grad_norm: PositiveFloat = Field(1.0, description="gradient norm is clipped to it")
    ema_decay: Probability = Field(0.9999, description="of the averaged weights, every step")
    mixed_precision: Precision = Field("auto", description=PRECISION)
    allow_tf32: bool = Field(False, description="TF32 matrix products on CUDA")


class TrainOptions(
    OptimizationOptions,
    ObjectiveOptions,
    AlignmentOptions,
    ModelOptions,
    TrainingDataOptions,
    ExperimentOptions,
    RunOptions,
):
    """Train a diffusion transformer on a prepared dataset, with or without alignment."""


class SourceOptions(Options):
    """Source and destination"""

    source: str | None = Field(
        None,
        description="folder, zip, tar shards, parquet or arrow files, hf:NAME, the release's "
        "layout, or twemoji, twemoji-train, twemoji-val; without it, what --dest lacks is added "
        "from the images in it",
    )
    dest: Path | None = Field(None, description="folder of the prepared dataset")
    verify: Path | None = Field(
        None, description="check this dataset against its manifest, and do nothing else"
    )
    split: str | None = Field(
        None, description="part of a Hugging Face dataset or ImageNet; train by default"
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
    mixed_precision: Precision = Field("no", description="of the encoders: " + PRECISION)
    batch_size: PositiveInt = Field(64, description="images encoded at a time")
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


class EvaluateOptions(RunOptions):
    """Measure samples against reference images."""

    samples: Path = Field(description="npz with arr_0, images as --source takes, or a dataset")
    reference: Path = Field(description="npz with arr_0, images as --source takes, or a dataset")
    network: str = Field("efficientnet-lite2", description="network whose features are compared")
    batch_size: PositiveInt = Field(64, description="images at a time")
    neighbors: PositiveInt = Field(3, description="k of precision and recall")
    output: Path | None = Field(None, description="JSON file for the result")


class DemoOptions(RunOptions):
    """Train a small model on emoji, plain and with REPA, and report what alignment did."""

    out: Path = Field(Path("repa-demo"), description="folder of everything the demo makes")
    steps: PositiveInt = Field(800, description="training steps of each of the two runs")
    num_samples: Annotated[int, Field(ge=8)] = Field(800, description="images sampled from each")
