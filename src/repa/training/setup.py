"""What a training run needs before its first step: devices, model, batches, the run's folder."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import accelerate
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration
from torch import nn
from tqdm import tqdm

import repa
from repa.autoencoders import Autoencoder, create_autoencoder
from repa.checkpoints import CheckpointState
from repa.config import TrainOptions
from repa.data import ImageDataset
from repa.data.format import Manifest
from repa.devices import pick_device, pick_precision
from repa.diffusion import Objective, create_objective
from repa.encoders import check_encoder_names, create_encoders
from repa.errors import RepaError
from repa.files import append_json, write_atomically
from repa.models import Backbone, MMDiT, create_model
from repa.processes import share_job
from repa.training.batches import BatchMaker
from repa.training.targets import target_normalizations
from repa.training.texts import Texts

LEGACY_DROPOUT = 0.1  # of the release's model, besides the one that its early script did


def start(options: TrainOptions) -> Accelerator:
    """Processes, device, precision and trackers.

    Raises:
        RepaError: if the device or the batch size does not fit this machine.
    """
    device = pick_device(options.device)
    precision = pick_precision(options.mixed_precision, device)
    if options.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    tracker = options.report_to
    if tracker == "wandb" and find_spec("wandb") is None:
        print("warning: wandb is not installed: logging to TensorBoard", file=sys.stderr)
        tracker = "tensorboard"
    run = options.output_dir / options.exp_name
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run of this process
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=precision,
            gradient_accumulation_steps=options.gradient_accumulation_steps,
            log_with=None if tracker == "none" else tracker,
            project_config=ProjectConfiguration(str(run), str(run / options.logging_dir)),
        )
    except (ImportError, ValueError) as error:
        raise RepaError(f"cannot start: {error}") from None
    share_job()
    if options.batch_size % accelerator.num_processes:
        raise RepaError(
            f"--batch-size {options.batch_size} does not divide among "
            f"{accelerator.num_processes} processes"
        )
    return accelerator


def check_dataset(options: TrainOptions, dataset: ImageDataset) -> None:
    """Whether the dataset is what the options ask for.

    Raises:
        RepaError: if its resolution is another or it has more classes.
    """
    manifest = dataset.manifest
    if options.resolution not in (None, manifest.resolution):
        raise RepaError(
            f"--resolution {options.resolution}: {options.data_dir} was prepared at "
            f"{manifest.resolution}"
        )
    if options.num_classes is not None and options.num_classes < dataset.num_classes:
        raise RepaError(
            f"--num-classes {options.num_classes}: {options.data_dir} has {dataset.num_classes}"
        )


def limit_to_epochs(options: TrainOptions, dataset: ImageDataset) -> TrainOptions:
    """The options with `--epochs` expressed in steps."""
    if options.epochs is None:
        return options
    steps = max(1, options.epochs * len(dataset) // options.images_a_step)
    return options.model_copy(
        update={"max_train_steps": min(steps, options.max_train_steps), "epochs": None}
    )


def open_autoencoder(
    options: TrainOptions, dataset: ImageDataset, accelerator: Accelerator
) -> Autoencoder | None:
    """What decodes previews and evaluated samples, on the processes that need it.

    None, with one warning, where its weights cannot be had: training goes on without previews.

    Raises:
        RepaError: if it cannot be had and `--eval-every` needs it.
    """
    if not (accelerator.is_main_process or options.eval_every):
        return None
    try:
        return create_autoencoder(dataset.manifest.autoencoder.name, accelerator.device)
    except RepaError as error:
        if options.eval_every:
            raise RepaError(f"--eval-every {options.eval_every}: {error}") from None
        tqdm.write(f"warning: no previews: {error}", file=sys.stderr)
        return None


def build_model(options: TrainOptions, dataset: ImageDataset, texts: Texts | None) -> Backbone:
    """The backbone for the dataset's latents and classes or texts, with random weights.

    Raises:
        RepaError: if there is no such model.
    """
    model = create_model(options.model, **_model_arguments(options, dataset, texts))
    if texts is not None and isinstance(model, MMDiT):
        model.null_context.copy_(texts.empty)
    model.gradient_checkpointing = options.gradient_checkpointing
    return model


def build_objective(options: TrainOptions, model: Backbone) -> Objective:
    """What the backbone is trained for, besides alignment."""
    return create_objective(
        model.objective, options.path_type, options.prediction, options.weighting
    )


def _model_arguments(
    options: TrainOptions, dataset: ImageDataset, texts: Texts | None
) -> dict[str, Any]:
    channels, side, _ = dataset.manifest.autoencoder.latent_shape
    arguments: dict[str, Any] = {"input_size": side, "in_channels": channels}
    if texts is None:
        arguments["num_classes"] = options.num_classes or dataset.num_classes
        arguments["class_dropout_prob"] = _label_dropout(options)
    else:
        arguments["context_dim"] = texts.record.dim
        arguments["context_length"] = texts.record.length
        arguments["mask_padding"] = texts.record.mask_padding
        arguments["context_dropout_prob"] = _label_dropout(options)
    return arguments | {"qk_norm": options.qk_norm, "fused_attn": options.fused_attn}


def _label_dropout(options: TrainOptions) -> float:
    if not options.legacy:
        return options.cfg_prob
    return 1 - (1 - LEGACY_DROPOUT) * (1 - options.cfg_prob)


def build_batch_maker(
    options: TrainOptions,
    dataset: ImageDataset,
    model: Backbone,
    texts: Texts | None,
    device: torch.device,
) -> tuple[BatchMaker, list[int]]:
    """The batch maker, with encoders for what the dataset has not cached, and the token widths."""
    names = check_encoder_names(options.enc_type)
    cached = dataset.manifest.features
    computed = [name for name in names if name not in cached]
    encoders = create_encoders(
        computed, dataset.manifest.resolution, model.grid_size, options.encoder_weights
    )
    for encoder in encoders.values():
        encoder.to(device)
    dims = [cached[name].dim if name in cached else encoders[name].dim for name in names]
    normalizations = target_normalizations(
        options.target_norm, dataset, names, encoders, model.grid_size, device
    )
    make = BatchMaker(
        dataset.manifest, names, encoders, model.grid_size, device, normalizations,
        None if texts is None else texts.encoder,
    )  # fmt: skip
    return make, dims


def build_optimizer(options: TrainOptions, module: nn.Module) -> torch.optim.Optimizer:
    """AdamW over all parameters, in one fused kernel."""
    return torch.optim.AdamW(
        module.parameters(),
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=options.adam_weight_decay,
        eps=options.adam_epsilon,
        fused=True,
    )


def new_state(options: TrainOptions, dataset: ImageDataset, texts: Texts | None) -> CheckpointState:
    """The state of a run at step 0."""
    return CheckpointState(
        step=0,
        model=options.model,
        model_arguments=_model_arguments(options, dataset, texts),
        autoencoder=dataset.manifest.autoencoder,
        resolution=dataset.manifest.resolution,
        classes=dataset.manifest.classes,
        dataset=_fingerprint(dataset.manifest),
        options=options.model_dump(mode="json"),
        text=None if texts is None else texts.record,
        scaler=None,
        versions={
            "repa": repa.__version__,
            "torch": torch.__version__,
            "accelerate": accelerate.__version__,
            "python": platform.python_version(),
        },
    )


def _fingerprint(manifest: Manifest) -> str:
    """Of what training reads of a dataset, less features: they are computed where they are missing.

    The same images prepared once more, or lying elsewhere, have the same one.
    """
    files = ("images.npy", "labels.npy", "latents.npy")
    shards = [[shard.images, *map(shard.sha256.get, files)] for shard in manifest.shards]
    of = json.dumps(shards) if shards else manifest.source.fingerprint
    return hashlib.sha256(of.encode()).hexdigest()


def open_run(
    options: TrainOptions, run: Path, accelerator: Accelerator, state: CheckpointState
) -> None:
    """Makes the run's folder, with the options as a recipe that repeats it, and starts trackers.

    Each start of training adds to `starts.jsonl` how it was called, and on what.

    Raises:
        RepaError: if it cannot be written.
    """
    try:
        if accelerator.is_main_process:
            run.mkdir(parents=True, exist_ok=True)
            recipe = yaml.safe_dump(options.model_dump(mode="json"), sort_keys=False)
            write_atomically(run / "config.yaml", recipe.encode())
            append_json(run / "starts.jsonl", _start_record(accelerator, state))
        if options.report_to != "none":
            values = options.model_dump(mode="json").items()
            config = {k: str(v) if isinstance(v, list) else v for k, v in values if v is not None}
            lines = {"purge_step": state.step + 1} if state.step else {}  # a killed run's go
            trackers = {"wandb": {"name": options.exp_name}, "tensorboard": lines}
            accelerator.init_trackers("repa", config, trackers)
    except OSError as error:
        raise RepaError(
            f"--output-dir {options.output_dir}: {error.filename or run} cannot be written: "
            f"{error.strerror or error}"
        ) from None


def _start_record(accelerator: Accelerator, state: CheckpointState) -> dict[str, Any]:
    device = accelerator.device
    program = Path(sys.argv[0]).name
    called = ["python", "-m", "repa.cli"] if program == "cli.py" else [program]
    return {
        "step": state.step,
        "command": shlex.join([*called, *sys.argv[1:]]),
        "processes": accelerator.num_processes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": accelerator.mixed_precision,
        "versions": state.versions,
        "machine": f"{platform.system()} {platform.machine()}",
    }
