"""What makes training faster or smaller leaves its losses over 200 steps as they are.

What is the same sum in another order may change them by rounding, bfloat16 by no more than other
choices of the labels to drop do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from shutil import which
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from repa.diffusion import FlowMatching
from repa.models import SiT
from repa.training import Batch, TrainingModule
from repa.training.ema import EMA
from repa.training.step import TrainingStep

STEPS, BATCH, IMAGES = 200, 8, 32
NORM = 0.5  # of gradients; about half of them have a larger one
LATE = slice(150, None)
SMALL = {"input_size": 16, "patch_size": 4, "hidden_size": 96, "depth": 4, "num_heads": 3}
SMALL |= {"num_classes": 10}


@dataclass
class Run:
    """Losses (STEPS,) of a run, and those of its averaged model in the end (IMAGES / BATCH,)."""

    losses: Tensor
    averaged: Tensor


def batches(count: int, drop_seed: int = 0) -> Iterator[Batch]:
    """Of IMAGES random latents with tokens, in turn; each time with other noise and times."""
    generator, drops = (torch.Generator().manual_seed(seed) for seed in (0, 1_000 + drop_seed))
    x = torch.randn(IMAGES, 4, 16, 16, generator=generator)
    tokens = torch.randn(IMAGES, 16, 24, generator=generator)
    for step in range(count):
        rows = (torch.arange(BATCH) + step * BATCH) % IMAGES
        yield Batch(
            x=x[rows],
            y=rows % 10,
            noise=torch.randn(BATCH, 4, 16, 16, generator=generator),
            time_uniform=torch.rand(BATCH, generator=generator),
            drop_uniform=torch.rand(BATCH, generator=drops),
            targets=[tokens[rows]],
        )


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    fields = (batch.x, batch.y, batch.noise, batch.time_uniform, batch.drop_uniform)
    pieces = zip(*(field.chunk(parts) for field in fields), strict=True)
    for piece, tokens in zip(pieces, batch.targets[0].chunk(parts), strict=True):
        yield Batch(*piece, targets=[tokens])


def run(
    precision: str = "no",
    accumulated: int = 1,
    checkpointing: bool = False,
    compiled: bool = False,
    drop_seed: int = 0,
    **model_arguments: Any,
) -> Run:
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulated
    )
    torch.manual_seed(0)
    model = SiT(**(SMALL | model_arguments))
    model.gradient_checkpointing = checkpointing
    module = TrainingModule(model, FlowMatching(), [24], encoder_depth=2, projector_dim=32)
    ema = EMA(model, 0.98)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0, fused=True)
    if compiled:
        module.compile(dynamic=False)
    step = TrainingStep(accelerator, lambda arrays: arrays["batch"], module, optimizer, ema, NORM)
    losses = []
    for batch in batches(STEPS, drop_seed):
        parts = [step({"batch": part})["loss"].detach() for part in split(batch, accumulated)]
        losses.append(torch.stack(parts).mean())
    module.model = ema.model
    module._compiled_call_impl = None
    with torch.no_grad():
        averaged = [module(batch)["denoising_loss"] for batch in batches(IMAGES // BATCH)]
    return Run(torch.stack(losses), torch.stack(averaged))


def late_difference(a: Run, b: Run) -> float:
    return (a.losses - b.losses)[LATE].abs().mean().item()


@pytest.fixture(scope="module")
def plain() -> Run:
    return run()


@pytest.fixture(scope="module")
def noise(plain: Run) -> float:
    return late_difference(run(drop_seed=1), plain)


def assert_equal(run: Run, plain: Run) -> None:
    torch.testing.assert_close(run.losses, plain.losses, rtol=0, atol=1e-5)
    torch.testing.assert_close(run.averaged, plain.averaged, rtol=0, atol=1e-5)


def test_the_plain_run_learns(plain: Run) -> None:
    assert plain.losses[LATE].mean() < plain.losses[:20].mean() - 0.2


def test_gradient_checkpointing(plain: Run) -> None:
    other = run(checkpointing=True)
    torch.testing.assert_close(other.losses, plain.losses, rtol=0, atol=1e-6)
    torch.testing.assert_close(other.averaged, plain.averaged, rtol=0, atol=1e-6)


def test_explicit_attention(plain: Run) -> None:
    assert_equal(run(fused_attn=False), plain)


def test_accumulated_batches(plain: Run) -> None:
    assert_equal(run(accumulated=2), plain)


def test_bfloat16(plain: Run, noise: float) -> None:
    other = run("bf16")
    assert not torch.equal(other.losses, plain.losses)
    torch.testing.assert_close(other.losses[:20], plain.losses[:20], rtol=0, atol=2e-3)
    assert late_difference(other, plain) < noise


@pytest.mark.skipif(which("g++") is None, reason="compiling for a CPU needs g++")
def test_compiled(plain: Run) -> None:
    assert_equal(run(compiled=True), plain)
