"""Options of `repa train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from repa.config.base import PRECISION, Options, Precision, Probability, RunOptions, Several
from repa.config.sample import Mode


class ExperimentOptions(Options):
    """Experiment"""

    exp_name: str = Field(description="name of the run: its folder below the output folder")
    output_dir: Path = Field(Path("exps"), description="folder of all runs")
    resume: Literal["auto", "no"] = Field(
        "auto", description="auto continues from the run's newest checkpoint, if it has one"
    )
    resume_step: NonNegativeInt = Field(
        0, description="continue from this step's checkpoint, ours or the release's, not the newest"
    )
    report_to: Literal["tensorboard", "wandb", "none"] = Field(
        "tensorboard", description="where metrics go besides metrics.jsonl"
    )
    logging_dir: str = Field("logs", description="folder of the trackers' files in the run's")
    logging_steps: PositiveInt = Field(100, description="steps between log lines")
    checkpointing_steps: PositiveInt = Field(50_000, description="steps between checkpoints")
    keep_last: PositiveInt | None = Field(
        None, description="checkpoints that stay, the newest; by default all"
    )
    keep_every: PositiveInt | None = Field(
        None, description="with --keep-last: those of every so many steps stay too"
    )
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

    model: str = Field(
        description="backbone: SiT- or DiT-{Ti,S,B,L,XL}/{2,4,8}, or for texts MMDiT-{Ti,S}/{2,4,8}"
    )
    fused_attn: bool = Field(True, description="PyTorch's fused attention kernels")
    qk_norm: bool = Field(False, description="LayerNorm on queries and keys")
    compile: bool | None = Field(
        None,
        description="torch.compile; needs a C++ compiler; by default on CUDA, in runs of 1,000 "
        "steps or more",
    )
    gradient_checkpointing: bool = Field(
        False, description="compute each block anew in the backward pass: less memory, more time"
    )


class TextOptions(Options):
    """Texts (MMDiT)"""

    text_enc_type: str = Field(
        "clip-vit-l", description="text encoder, whose features the dataset has, or captions for it"
    )
    text_encoder_weights: Path | None = Field(
        None, description="folder with the text encoder; else downloaded"
    )


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
    projection_layer_type: Literal["mlp", "conv"] = Field(
        "mlp", description="projection heads: REPA's MLP, or a 3x3 convolution (iREPA)"
    )
    projection_loss_type: Literal["cosine", "nt-xent"] = Field(
        "cosine", description="alignment loss; nt-xent tells the tokens of an image apart"
    )
    target_norm: Literal["none", "spatial", "channel"] = Field(
        "none",
        description="z-scores of the target's channels: over the tokens of each image (iREPA's "
        "spatial normalization), or over the dataset",
    )


class ObjectiveOptions(Options):
    """Objective"""

    path_type: Literal["linear", "cosine"] = Field(
        "linear", description="SiT, MMDiT: from data to noise"
    )
    prediction: Literal["v", "eps", "x"] = Field(
        "v", description="SiT and MMDiT predict velocity, noise or data; DiT always eps"
    )
    weighting: Literal["uniform", "lognormal"] = Field(
        "uniform", description="distribution of the training times; DiT's are uniform"
    )
    cfg_prob: Probability = Field(0.1, description="probability of dropping the label, or text")
    legacy: bool = Field(
        False, description="drop labels twice, as the release's first experiments did"
    )


class OptimizationOptions(Options):
    """Optimization"""

    max_train_steps: PositiveInt = Field(400_000, description="optimizer steps")
    epochs: PositiveInt | None = Field(
        None, description="stop after so many passes over the data, if that is earlier"
    )
    batch_size: PositiveInt = Field(256, description="over all processes")
    gradient_accumulation_steps: PositiveInt = Field(1, description="batches a step")
    learning_rate: PositiveFloat = Field(1e-4, description="of AdamW, constant")
    adam_beta1: Probability = Field(0.9, description="of AdamW")
    adam_beta2: Probability = Field(0.999, description="of AdamW")
    adam_weight_decay: NonNegativeFloat = Field(0.0, description="of AdamW")
    adam_epsilon: PositiveFloat = Field(1e-8, description="of AdamW")
    max_grad_norm: PositiveFloat = Field(1.0, description="gradient norm is clipped to it")
    max_skipped_steps: PositiveInt = Field(
        20, description="stop after so many steps in a row whose loss or gradients are not finite"
    )
    ema_decay: Probability = Field(0.9999, description="of the averaged weights, every step")
    mixed_precision: Precision = Field("auto", description=PRECISION)
    fsdp: bool = Field(
        False,
        description="shard weights, gradients, averages and optimizer among the processes (FSDP2), "
        "for models that do not fit one device",
    )
    allow_tf32: bool = Field(False, description="TF32 matrix products on CUDA")


class TrainingEvaluationOptions(Options):
    """Evaluation during training"""

    eval_every: PositiveInt | None = Field(
        None, description="steps between evaluations of the averaged weights' samples"
    )
    eval_samples: PositiveInt = Field(5_000, description="images sampled for each")
    eval_reference: Path | None = Field(
        None, description="as --reference of `repa evaluate`; by default 10,000 of the dataset"
    )
    eval_network: str = Field("inception", description="as --network of `repa evaluate`")
    eval_network_weights: Path | None = Field(None, description="file of the network's weights")
    eval_mode: Mode | None = Field(None, description="as --mode of `repa sample`")
    eval_num_steps: Annotated[int, Field(ge=2)] = Field(50, description="steps of the sampler")
    eval_cfg_scale: Annotated[float, Field(ge=1)] = Field(1.0, description="guidance; 1 is none")
    eval_batch_size: PositiveInt = Field(64, description="images at a time in each process")


class TrainingAnalysisOptions(Options):
    """Analysis during training"""

    probe_every: PositiveInt | None = Field(
        None, description="steps between linear probings of the averaged weights' hidden states"
    )
    align_every: PositiveInt | None = Field(
        None, description="steps between comparisons of these states with encoders (CKNNA)"
    )
    val_dir: Path | None = Field(
        None, description="prepared dataset whose images are looked at; by default every fifth of "
        "--data-dir"
    )  # fmt: skip
    analysis_images: PositiveInt = Field(
        2_000, description="at most so many are looked at, and so many others train classifiers"
    )
    align_enc_type: str | None = Field(
        None, description="encoders to compare with; --enc-type by default"
    )
    analysis_times: Several[Probability] = Field((0.5,), description="as --times of `repa probe`")


class TrainOptions(
    TrainingAnalysisOptions,
    TrainingEvaluationOptions,
    OptimizationOptions,
    ObjectiveOptions,
    AlignmentOptions,
    TextOptions,
    ModelOptions,
    TrainingDataOptions,
    ExperimentOptions,
    RunOptions,
):
    """Train a diffusion transformer on a prepared dataset, with or without alignment."""

    @property
    def images_a_step(self) -> int:
        """Over all processes and accumulated batches."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def text_encoder(self) -> str | None:
        """The text encoder of a model that takes texts, else None."""
        return self.text_enc_type if self.model.startswith("MMDiT-") else None

    @model_validator(mode="before")
    @classmethod
    def _dit_predicts_noise(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Also in the published command line, whose `--prediction v` is for SiT."""
        if str(values.get("model")).startswith("DiT-") and values.get("prediction", "v") == "v":
            return values | {"prediction": "eps"}
        return values

    @model_validator(mode="after")
    def _keep_every_with_keep_last(self) -> TrainOptions:
        if self.keep_every is not None and self.keep_last is None:
            raise ValueError(
                f"--keep-every {self.keep_every}: all checkpoints stay unless --keep-last says how "
                "many"
            )
        return self

    @model_validator(mode="after")
    def _classes_or_texts(self) -> TrainOptions:
        """A recipe may give an option of the other kind, if it is the default."""
        takes, foreign = "classes, not texts", tuple(TextOptions.model_fields)
        if self.text_encoder is not None:
            takes, foreign = "texts, not classes", ("num_classes",)
        for name in foreign:
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(
                    f"--{name.replace('_', '-')} {value}: {self.model} takes {takes}; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _dit_has_its_own_process(self) -> TrainOptions:
        if not self.model.startswith("DiT-"):
            return self
        dit = {"path_type": "linear", "weighting": "uniform", "prediction": "eps"}
        for name, only in dit.items():
            if (value := getattr(self, name)) != only:
                raise ValueError(
                    f"--{name.replace('_', '-')} {value}: only flow-based models (SiT) have the "
                    f"choice; leave it out for {self.model}"
                )
        return self
