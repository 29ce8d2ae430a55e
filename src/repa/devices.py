"""Devices and precisions: what this machine has."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

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


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
