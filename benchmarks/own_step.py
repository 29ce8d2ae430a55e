"""A step of `repa train`, of the parts that its loop is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch

from repa.config import TrainOptions
from repa.data import open_dataset
from repa.data.visits import Visits, visit_loader
from repa.memory import keep_freed_memory
from repa.models import Backbone
from repa.training.compiling import compile_training
from repa.training.ema import EMA
from repa.training.module import TrainingModule
from repa.training.setup import (
    build_batch_maker,
    build_model,
    build_objective,
    build_optimizer,
    start,
)
from repa.training.step import TrainingStep


def own_step(
    options: TrainOptions, batch: int, make_model: Callable[[], Backbone] | None = None
) -> Callable[[], None]:
    """The step, on the same batch each time.

    Args:
        options: of the run.
        batch: images of this process.
        make_model: the backbone, where it is not the one that the options name.
    """
    keep_freed_memory()  # as all commands do
    dataset = open_dataset(options.data_dir)
    accelerator = start(options)
    torch.manual_seed(options.seed)
    model = build_model(options, dataset, None) if make_model is None else make_model()
    make_batch, dims = build_batch_maker(options, dataset, model, None, accelerator.device)
    module = TrainingModule(
        model,
        build_objective(options, model),
        dims,
        options.encoder_depth,
        options.proj_coeff,
        options.projector_dim,
    ).to(accelerator.device)
    ema = EMA(model, options.ema_decay)
    optimizer = build_optimizer(options, module)
    compile_training(options, accelerator.device, module, make_batch.encoders.values())
    take_step = TrainingStep(accelerator, make_batch, module, optimizer, ema, options.max_grad_norm)
    visits = Visits(dataset, options.seed, make_batch.keys)
    [arrays] = visit_loader(
        visits, [list(range(batch))], 0, pin_memory=accelerator.device.type == "cuda"
    )

    def step() -> None:
        take_step(arrays)

    return step
