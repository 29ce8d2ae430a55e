"""The training loop."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import accelerate
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration
from tqdm import tqdm

import repa
from repa.autoencoders import create_autoencoder
from repa.config import SamplerOptions, TrainOptions
from repa.data import PreparedDataset
from repa.data.visits import ProcessBatches, Visits, visit_loader
from repa.devices import pick_device, pick_precision
from repa.diffusion import Interpolant
from repa.encoders import check_encoder_names, create_encoder
from repa.errors import RepaError
from repa.models import SiT, create_model
from repa.sampling import generate_images, save_grid
from repa.training.batches import BatchMaker
from repa.training.checkpoint import (
    CheckpointState,
    find_checkpoint,
    load_into,
    load_optimizer,
    read_state,
    save_checkpoint,
    to_plain_json,
)
from repa.training.ema import EMA
from repa.training.log import MetricsLog
from repa.training.module import TrainingModule

PREVIEW_IMAGES = 32


def train(options: TrainOptions) -> Path:
    """Trains as the options say, continuing the run of that name if it has a checkpoint.

    Returns:
        The run's folder.

    Raises:
        RepaError: if options, dataset, encoder or an existing run do not fit together.
    """
    dataset = PreparedDataset(options.data_dir)
    _check_dataset(options, dataset)
    accelerator = _start(options)
    device = accelerator.device

    torch.manual_seed(options.seed)  # the same initial weights on every process
    model = _build_model(options, dataset)
    make_batch, target_dims = _build_batch_maker(options, dataset, model, device)
    module = TrainingModule(
        model,
        Interpolant(options.path_type),
        target_dims,
        options.encoder_depth,
        options.proj_coeff,
        options.weighting,
        options.projector_dim,
    ).to(device)
    ema = EMA(model, options.ema_decay)
    names = [name for name, _ in module.named_parameters()]
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=options.adam_weight_decay,
        eps=options.adam_epsilon,
        fused=True,
    )

    run = options.output_dir / options.exp_name
    checkpoint = find_checkpoint(run)
    state = _new_state(options, dataset, model)
    if checkpoint is not None:
        state = _check_resumable(options, checkpoint, state)
        load_into(model, checkpoint, "model")
        load_into(ema.model, checkpoint, "ema")
        if module.heads:
            load_into(module.heads, checkpoint, "heads")
        load_optimizer(optimizer, checkpoint, names)
        accelerator.print(f"resuming {run} at step {state.step}")
    _open_run(options, run, accelerator)

    if options.compile:
        module.compile()
    wrapped, optimizer = accelerator.prepare(module, optimizer)
    if accelerator.scaler is not None and state.scaler:
        accelerator.scaler.load_state_dict(state.scaler)

    def save(step: int) -> None:
        scaler = accelerator.scaler
        now = state.model_copy(
            update={"step": step, "scaler": scaler.state_dict() if scaler else None}
        )
        folder = run / "checkpoints" / f"{step:07d}"
        save_checkpoint(folder, now, model, ema.model, module.heads, optimizer, names)

    accumulated = options.gradient_accumulation_steps
    images_a_step = options.batch_size * accumulated
    batches = ProcessBatches(
        options.batch_size,
        first_visit=state.step * images_a_step,
        num_batches=(options.max_train_steps - state.step) * accumulated,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    visits = Visits(dataset, options.seed, make_batch.keys)
    loader = visit_loader(visits, batches, _workers(options.num_workers, device))
    log = MetricsLog(run / "metrics.jsonl", accelerator, state.step, images_a_step)
    progress = tqdm(
        total=options.max_train_steps,
        initial=state.step,
        desc=options.exp_name,
        unit="step",
        disable=not accelerator.is_main_process,
    )

    step = state.step
    for arrays in loader:
        with accelerator.accumulate(wrapped):
            with accelerator.autocast():
                batch = make_batch(arrays)
            losses = wrapped(batch)
            accelerator.backward(losses["loss"])
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(wrapped.parameters(), options.max_grad_norm)
                losses["grad_norm"] = norm
            optimizer.step()
            optimizer.zero_grad()
        log.add(losses)
        if not accelerator.sync_gradients:
            continue
        ema.update()
        step += 1
        progress.update()

        is_last = step == options.max_train_steps
        if step % options.logging_steps == 0 or is_last:
            metrics = log.write(step)
            progress.set_postfix_str(_summary(metrics))
        interruption = log.pause()
        if accelerator.is_main_process:
            if step % options.sampling_steps == 0:
                _preview(ema.model, dataset, options, device, run / "previews" / f"{step:07d}.png")
            if step % options.checkpointing_steps == 0 or is_last:
                save(step)
        log.resume(interruption)

    progress.close()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return run


def _start(options: TrainOptions) -> Accelerator:
    """Processes, device, precision and trackers."""
    device = pick_device(options.device)
    precision = pick_precision(options.mixed_precision, device)
    if options.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    run = options.output_dir / options.exp_name
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run of this process
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=precision,
            gradient_accumulation_steps=options.gradient_accumulation_steps,
            log_with=None if options.report_to == "none" else options.report_to,
            project_config=ProjectConfiguration(str(run), logging_dir=str(run / "logs")),
        )
    except (ImportError, ValueError) as error:
        raise RepaError(f"cannot start: {error}") from None
    if options.batch_size % accelerator.num_processes:
        raise RepaError(
            f"--batch-size {options.batch_size} does not divide among "
            f"{accelerator.num_processes} processes"
        )
    return accelerator


def _check_dataset(options: TrainOptions, dataset: PreparedDataset) -> None:
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


def _build_model(options: TrainOptions, dataset: PreparedDataset) -> SiT:
    return create_model(options.model, **_model_arguments(options, dataset))


def _model_arguments(options: TrainOptions, dataset: PreparedDataset) -> dict[str, Any]:
    channels, side, _ = dataset.manifest.autoencoder.latent_shape
    return {
        "input_size": side,
        "in_channels": channels,
        "num_classes": options.num_classes or dataset.num_classes,
        "class_dropout_prob": options.cfg_prob,
        "qk_norm": options.qk_norm,
        "fused_attn": options.fused_attn,
    }


def _build_batch_maker(
    options: TrainOptions, dataset: PreparedDataset, model: SiT, device: torch.device
) -> tuple[BatchMaker, list[int]]:
    """The batch maker, with encoders for what the dataset has not cached, and the token widths."""
    names = check_encoder_names(options.enc_type)
    cached = dataset.manifest.features
    encoders = {
        name: create_encoder(
            name, dataset.manifest.resolution, model.grid_size, options.encoder_weights
        ).to(device)
        for name in names
        if name not in cached
    }
    dims = [cached[name].dim if name in cached else encoders[name].dim for name in names]
    return BatchMaker(dataset.manifest, names, encoders, model.grid_size, device), dims


def _new_state(options: TrainOptions, dataset: PreparedDataset, model: SiT) -> CheckpointState:
    return CheckpointState(
        step=0,
        model=options.model,
        model_arguments=_model_arguments(options, dataset),
        autoencoder=dataset.manifest.autoencoder,
        resolution=dataset.manifest.resolution,
        classes=dataset.manifest.classes,
        options=to_plain_json(options),
        scaler=None,
        versions={
            "repa": repa.__version__,
            "torch": torch.__version__,
            "accelerate": accelerate.__version__,
            "python": platform.python_version(),
        },
    )


def _check_resumable(
    options: TrainOptions, checkpoint: Path, wanted: CheckpointState
) -> CheckpointState:
    """The checkpoint's state, if this run may continue it."""
    if options.resume == "no":
        raise RepaError(f"--resume no: {checkpoint} exists; choose another --exp-name or delete it")
    found = read_state(checkpoint)
    same = ("model", "model_arguments", "autoencoder", "resolution")
    differing = [name for name in same if getattr(found, name) != getattr(wanted, name)]
    differing += [
        "--" + name.replace("_", "-")
        for name in ("seed", "enc_type", "encoder_depth", "path_type", "batch_size")
        if found.options.get(name) != wanted.options[name]
    ]
    if differing:
        raise RepaError(
            f"{checkpoint} is of another run (different: {', '.join(differing)}): choose another "
            "name or folder for this one"
        )
    if found.step > options.max_train_steps:
        raise RepaError(
            f"{checkpoint} is past --max-train-steps {options.max_train_steps}: choose another "
            "name or folder for this run"
        )
    return wanted.model_copy(update={"step": found.step, "scaler": found.scaler})


def _open_run(options: TrainOptions, run: Path, accelerator: Accelerator) -> None:
    """Makes the run's folder, with the options as a recipe that repeats it."""
    if accelerator.is_main_process:
        (run / "previews").mkdir(parents=True, exist_ok=True)
        recipe = yaml.safe_dump(to_plain_json(options), sort_keys=False)
        (run / "config.yaml").write_text(recipe)
    if options.report_to != "none":
        config = {k: v for k, v in to_plain_json(options).items() if v is not None}
        accelerator.init_trackers("repa", config=config)


def _preview(
    model: SiT, dataset: PreparedDataset, options: TrainOptions, device: torch.device, path: Path
) -> None:
    """A grid of samples from the averaged weights, always of the same noise and classes."""
    manifest = dataset.manifest
    labels = dataset.labels[:: max(1, len(dataset) // PREVIEW_IMAGES)][:PREVIEW_IMAGES]
    batches = generate_images(
        model,
        create_autoencoder(manifest.autoencoder.name, device),
        labels,
        SamplerOptions(num_steps=50),
        options.seed,
        Interpolant(options.path_type),
        batch_size=PREVIEW_IMAGES,
        precision=pick_precision(options.mixed_precision, device),
    )
    save_grid(torch.cat(list(batches)), path)


def _workers(wanted: int | None, device: torch.device) -> int:
    if wanted is None:  # on the CPU, workers would take cores from the training itself
        return 0 if device.type == "cpu" else 4
    return wanted


def _summary(metrics: dict[str, float]) -> str:
    shown = {"loss": "loss {:.4f}", "alignment_loss": "alignment {:.4f}",
             "images_per_second": "{:.0f} images/s"}  # fmt: skip
    return ", ".join(text.format(metrics[k]) for k, text in shown.items() if k in metrics)
