"""What a run reads of its dataset, from a step on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator

from repa.config import TrainOptions
from repa.data import ImageDataset
from repa.data.visits import Arrays, ProcessBatches, Visits, visit_loader
from repa.training.batches import BatchMaker
from repa.training.texts import Texts


def open_loader(
    options: TrainOptions,
    dataset: ImageDataset,
    make_batch: BatchMaker,
    texts: Texts | None,
    accelerator: Accelerator,
    step: int,
) -> tuple[Visits, Iterator[Arrays]]:
    """All visits of the run, and this process's batches of them after a step, read ahead."""
    stored = texts.name if texts is not None and texts.encoder is None else None
    in_words = texts is not None and texts.encoder is not None
    visits = Visits(dataset, options.seed, make_batch.keys, stored, in_words)
    batches = ProcessBatches(
        options.batch_size,
        first_visit=step * options.images_a_step,
        num_batches=(options.max_train_steps - step) * options.gradient_accumulation_steps,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    device = accelerator.device
    workers = _pick_workers(options, device)
    return visits, visit_loader(visits, batches, workers, pin_memory=device.type == "cuda")


def _pick_workers(options: TrainOptions, device: torch.device) -> int:
    """Reading threads: as asked; else 4, or none on the CPU, where they would take its cores."""
    if options.num_workers is not None:
        return options.num_workers
    return 0 if device.type == "cpu" else 4
