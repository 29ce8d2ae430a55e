"""The training loop."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from repa.config import TrainOptions
from repa.data import open_dataset
from repa.data.visits import ProcessBatches, Visits, visit_loader
from repa.training.analysis import Analyses
from repa.training.checkpoint import restore, save_checkpoint
from repa.training.compiling import compile_training
from repa.training.ema import EMA
from repa.training.evaluation import Evaluations
from repa.training.log import MetricsLog
from repa.training.module import TrainingModule
from repa.training.preview import Previews
from repa.training.resume import find_start
from repa.training.setup import (
    build_batch_maker,
    build_model,
    build_objective,
    build_optimizer,
    check_dataset,
    limit_to_epochs,
    new_state,
    open_autoencoder,
    open_run,
    pick_workers,
    start,
)
from repa.training.sharding import shard_training, shards
from repa.training.step import TrainingStep
from repa.training.texts import open_texts


def train(options: TrainOptions) -> Path:
    """Trains as the options say, continuing the run of that name if it has a checkpoint.

    Returns:
        The run's folder.

    Raises:
        RepaError: if options, dataset, encoder or an existing run do not fit together.
    """
    dataset = open_dataset(options.data_dir)
    check_dataset(options, dataset)
    options = limit_to_epochs(options, dataset)
    accelerator = start(options)
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

    run = options.output_dir / options.exp_name
    state = new_state(options, dataset, texts)
    checkpoint, state = find_start(options, run, dataset, state, texts, accelerator)
    if checkpoint is not None:
        restore(checkpoint, module, ema.model, optimizer)
        accelerator.print(f"resuming {run} at step {state.step}")
    autoencoder = open_autoencoder(options, dataset, accelerator)
    evaluations = None
    if options.eval_every and autoencoder is not None:
        evaluations = Evaluations(
            options, dataset, autoencoder, objective, texts, accelerator, run, state.step
        )
    analyses = None
    if options.probe_every or options.align_every:
        analyses = Analyses(options, dataset, objective, accelerator, run, state.step)
    open_run(options, run, accelerator, state)

    compile_training(options, device, module, make_batch.encoders.values())
    take_step = TrainingStep(accelerator, make_batch, module, optimizer, ema, options.max_grad_norm)
    if accelerator.scaler is not None and state.scaler:
        accelerator.scaler.load_state_dict(state.scaler)

    accumulated = options.gradient_accumulation_steps
    images_a_step = options.batch_size * accumulated
    batches = ProcessBatches(
        options.batch_size,
        first_visit=state.step * images_a_step,
        num_batches=(options.max_train_steps - state.step) * accumulated,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    stored = texts.name if texts is not None and texts.encoder is None else None
    in_words = texts is not None and texts.encoder is not None
    visits = Visits(dataset, options.seed, make_batch.keys, stored, in_words)
    loader = visit_loader(
        visits, batches, pick_workers(options, device), pin_memory=device.type == "cuda"
    )
    previews = None
    if accelerator.is_main_process and autoencoder is not None:
        previews = Previews(
            options, dataset, autoencoder, objective, texts, device, run / "previews"
        )
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
        log.add(take_step(arrays))
        if not accelerator.sync_gradients:
            continue
        step += 1
        progress.update()

        is_last = step == options.max_train_steps
        if step % options.logging_steps == 0 or is_last:
            progress.set_postfix_str(_summary(log.write(step)))
        with log.paused():
            drawing = step % options.sampling_steps == 0
            measures = [m for m in (evaluations, analyses) if m is not None and m.due(step)]
            if drawing or measures:
                averaged = ema.whole(keep=bool(measures) or accelerator.is_main_process)
                if averaged is not None:
                    if drawing and previews is not None:
                        previews.draw(averaged, step)
                    for measure in measures:
                        measure.measure(averaged, step)
                del averaged  # a whole copy, where averages are sharded
            if step % options.checkpointing_steps == 0 or is_last:
                scaler = accelerator.scaler
                now = {"step": step, "scaler": scaler.state_dict() if scaler else None}
                folder = run / "checkpoints" / f"{step:07d}"
                save_checkpoint(
                    folder, state.model_copy(update=now), module, ema.model, take_step.optimizer,
                    writes=accelerator.is_main_process,
                )  # fmt: skip

    progress.close()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return run


def _summary(metrics: dict[str, float]) -> str:
    shown = {
        "loss": "loss {:.4f}",
        "alignment_loss": "alignment {:.4f}",
        "images_per_second": "{:.0f} images/s",
    }
    return ", ".join(text.format(metrics[k]) for k, text in shown.items() if k in metrics)
