"""The training loop."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from tqdm import tqdm

from repa.checkpoints.state import Progress
from repa.config import TrainOptions
from repa.data import ImageDataset, open_dataset
from repa.errors import PreemptedError
from repa.locks import only_job
from repa.processes import on_main
from repa.training.checkpoint import Checkpoints, restore
from repa.training.compiling import compile_training
from repa.training.ema import EMA
from repa.training.interruption import Interruption
from repa.training.log import MetricsLog, writing_to
from repa.training.measurements import Measurements
from repa.training.module import TrainingModule
from repa.training.reading import open_loader
from repa.training.resume import find_start
from repa.training.setup import (
    build_batch_maker,
    build_model,
    build_objective,
    build_optimizer,
    check_dataset,
    limit_to_epochs,
    new_state,
    open_run,
    start,
)
from repa.training.sharding import shard_training, shards
from repa.training.skipped import SkippedSteps
from repa.training.step import TrainingStep
from repa.training.texts import open_texts


def train(options: TrainOptions) -> Path:
    """Trains as the options say, continuing the run of that name if it has a checkpoint.

    Returns:
        The run's folder.

    Raises:
        RepaError: if options, dataset, encoder or an existing run do not fit together, another job
            works on the run, its folder cannot be written to, or too many steps were skipped.
        PreemptedError: if a signal asked for an end; a checkpoint has been written.
    """
    dataset = open_dataset(options.data_dir)
    check_dataset(options, dataset)
    options = limit_to_epochs(options, dataset)
    run = options.output_dir / options.exp_name
    with Interruption() as interruption, ExitStack() as held:
        accelerator = start(options)
        interruption.join()
        on_main(PartialState(), lambda: held.enter_context(only_job(run)))
        _train(options, dataset, run, accelerator, interruption)
    return run


def _train(
    options: TrainOptions,
    dataset: ImageDataset,
    run: Path,
    accelerator: Accelerator,
    interruption: Interruption,
) -> None:
    device = accelerator.device
    torch.manual_seed(options.seed)  # the same initial weights on every process
    texts = open_texts(options, dataset, accelerator)
    model = build_model(options, dataset, texts)
    objective = build_objective(options, model)
    with accelerator.local_main_process_first():  # the others wait while one downloads encoders
        make_batch, target_dims = build_batch_maker(options, dataset, model, texts, device)
    module = TrainingModule(
        model,
        objective,
        target_dims,
        options.encoder_depth,
        options.proj_coeff,
        options.projector_dim,
        options.projection_layer_type,
        options.projection_loss_type,
    )
    if shards(options, accelerator):
        ema: EMA = shard_training(module, options.ema_decay, accelerator)
    else:
        ema = EMA(module.to(device).model, options.ema_decay)
    optimizer = build_optimizer(options, module)

    state = new_state(options, dataset, texts)
    checkpoint, state = find_start(options, run, dataset, state, texts, accelerator)
    if checkpoint is not None:
        restore(checkpoint, module, ema.model, optimizer)
        accelerator.print(f"resuming {run} at step {state.step}")
    step = state.step
    progress = state.progress or Progress(written=step)
    measured = step - 1 if progress.unmeasured else step
    measurements = Measurements(options, dataset, objective, texts, accelerator, run, measured)
    open_run(options, run, accelerator, state)

    compile_training(options, device, module, make_batch.encoders.values())
    take_step = TrainingStep(accelerator, make_batch, module, optimizer, ema, options.max_grad_norm)
    if accelerator.scaler is not None and state.scaler:
        accelerator.scaler.load_state_dict(state.scaler)

    visits, loader = open_loader(options, dataset, make_batch, texts, accelerator, step)
    log = MetricsLog(
        run / "metrics.jsonl", accelerator, step, options.images_a_step, state.progress
    )
    skipped = SkippedSteps(
        run / "skipped.jsonl", visits, make_batch, options.images_a_step, options.max_skipped_steps,
        progress, step, accelerator,
    )  # fmt: skip
    checkpoints = Checkpoints(run, options, state, accelerator, module, ema, take_step.optimizer)
    with tqdm(
        total=options.max_train_steps,
        initial=step,
        desc=options.exp_name,
        unit="step",
        disable=not accelerator.is_main_process,
    ) as bar:  # closed before an error is told
        if progress.unmeasured:
            with writing_to(run), log.paused():
                measurements.take(ema, step)
        for arrays in loader:
            losses = take_step(arrays)
            log.add(losses)
            if not accelerator.sync_gradients:
                continue
            step += 1
            bar.update()

            is_last = step == options.max_train_steps
            ends = interruption.asked_to_end(is_last) and not is_last
            with writing_to(run):
                skipped.watch(step, losses)
                if step % options.logging_steps == 0 or is_last:
                    skipped.look()
                    bar.set_postfix_str(_summary(log.write(step, skipped.total)))
                if measurements.due(step) and not ends:
                    with log.paused():
                        measurements.take(ema, step)
            if step % options.checkpointing_steps == 0 or is_last or ends:
                with log.paused():
                    skipped.look()
                    left = {"unmeasured": ends and measurements.due(step)}
                    so_far = log.progress().model_copy(update=skipped.counts() | left)
                    checkpoints.save(step, so_far)
            if ends:
                break

    accelerator.wait_for_everyone()
    with writing_to(run):
        accelerator.end_training()
    if step < options.max_train_steps:
        why = interruption.heard or "a signal to another process"
        raise PreemptedError(
            f"{run}: ended by {why} with a checkpoint of step {step}; the same command goes on"
        )


def _summary(metrics: dict[str, float]) -> str:
    shown = {
        "loss": "loss {:.4f}",
        "alignment_loss": "alignment {:.4f}",
        "images_per_second": "{:.0f} images/s",
    }
    return ", ".join(text.format(metrics[k]) for k, text in shown.items() if k in metrics)
