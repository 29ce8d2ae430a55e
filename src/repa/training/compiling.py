"""`torch.compile`: what of a training run it compiles, and when that pays."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from repa.config import TrainOptions
from repa.encoders import Encoder
from repa.training.sharding import compile_units

PAYS_FROM = 1_000  # steps: compiling takes a minute or two


def compile_training(
    options: TrainOptions, device: torch.device, module: nn.Module, encoders: Iterable[Encoder]
) -> None:
    """Compiles the training module and, on CUDA, target encoders, if that is asked for or pays.

    Where `--compile` is left out, it pays on CUDA with Triton in runs of some length, and what
    cannot be compiled there runs as it is, with PyTorch's warning. Shapes are static: every batch
    is full. Of a sharded module blocks and heads are compiled, each by itself.
    """
    chosen = options.compile
    if chosen is None:
        has_triton = device.type == "cuda" and find_spec("triton") is not None
        chosen = has_triton and options.max_train_steps >= PAYS_FROM
    if not chosen:
        return
    if options.compile is None:
        torch._dynamo.config.suppress_errors = True
    if isinstance(module, FSDPModule):
        compile_units(module)
    else:
        module.compile(dynamic=False)
    if device.type == "cuda":  # on a CPU their slices gain nothing by it
        for encoder in encoders:
            encoder.compile(dynamic=False)
