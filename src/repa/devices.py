"""Devices and precisions: what this machine has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from repa.config import Precision
from repa.errors import RepaError


def pick_device(name: str | None) -> torch.device:
    """The named device, or CUDA if there is any, else the CPU.

    Raises:
        RepaError: if this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RepaError(f"--device {name!r} cannot be used here: {reason}") from None
    return device


def pick_precision(wanted: Precision, device: torch.device) -> Precision:
    """What "auto" means on a device: bf16 where the hardware multiplies it, else fp16 or none.

    CPUs have no fast fp16, so there fp16 becomes what "auto" gives.
    """
    if device.type == "cpu":
        if wanted in ("auto", "fp16"):
            return "bf16" if _cpu_has_bf16() else "no"
        return wanted
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "no"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """The context in which a model runs at that precision."""
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    if precision not in dtypes:
        return nullcontext()
    return torch.autocast(device.type, dtypes[precision])


def in_slices(
    network: Callable[[Tensor], Tensor], x: Tensor, cpu_size: int, size: int | None = None
) -> Tensor:
    """A convolutional network's output, computed some images at a time.

    On a CPU in small slices and as channels-last: activations then stay in caches and in memory
    that the allocator keeps, which is several times faster (benchmarks/cpu_choices.py).

    Args:
        network: from (n, C, H, W) to (n, ...).
        x: (N, C, H, W).
        cpu_size: images a slice on a CPU.
        size: elsewhere; all at once by default.
    """
    if x.device.type == "cpu":
        x, size = x.contiguous(memory_format=torch.channels_last), cpu_size
    return torch.cat([network(part) for part in x.split(size or len(x))])


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
