"""Floating-point operations: how many a training step takes, and how many the device can do."""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from repa.models import create_model
from repa.training.module import TrainingModule

SIDES = (2048, 4096, 8192)  # of the square matrices that tell the ceiling


def forward_flops(model: str, target_dims: list[int]) -> int:
    """Of one image of 32 x 32 latents through backbone and projection heads: matrix products."""
    from repa.diffusion import FlowMatching

    with torch.device("meta"):
        backbone = create_model(
            model, input_size=32, in_channels=4, num_classes=1000, fused_attn=False
        )
        module = TrainingModule(backbone, FlowMatching(), target_dims, encoder_depth=1)
        x, t = torch.empty(1, 4, 32, 32), torch.empty(1)
        y = torch.empty(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            _, hidden = module.model(x, t, y, capture=(1,))
            for head in module.heads:
                head(hidden[1])
    return counter.get_total_flops()


def network_flops(network: nn.Module, side: int) -> int:
    """Of one image of `side` pixels through an encoder's network: matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops()


def ceiling(dtype: torch.dtype, device: torch.device, seconds: float = 2.0) -> float:
    """Operations a second of the fastest square matrix product."""
    best = 0.0
    for side in SIDES if device.type == "cuda" else SIDES[:2]:
        a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
        out = a @ b
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            repeats = 10 if device.type == "cuda" else 1
            started = time.perf_counter()
            for _ in range(repeats):
                torch.matmul(a, b, out=out)
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = max(best, repeats * 2 * side**3 / (time.perf_counter() - started))
    return best
