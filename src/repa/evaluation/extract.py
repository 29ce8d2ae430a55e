"""From images to features in one pass, each process its share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from repa.errors import RepaError
from repa.evaluation.networks.base import Features, Network


def share(count: int, process: int, processes: int) -> range:
    """The process's part of so many images: contiguous, and together all of them in order."""
    return range(count * process // processes, count * (process + 1) // processes)


def extract(
    network: Network,
    batches: Iterable[Tensor],
    device: torch.device | str = "cpu",
    title: str = "these images",
) -> Features:
    """Features of all batches of images, in float32, on the CPU.

    Without gradients and reduced precision, whatever the caller trains with.

    Args:
        network: on `device`.
        batches: images (n, 3, H, W) uint8; none at all gives features of no rows.
        device: where the network is.
        title: what the images are, for messages.

    Raises:
        RepaError: if a feature is not a finite number, as those of a damaged network are.
    """
    device = torch.device(device)
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad(), full_precision(device):
        for batch in batches:
            for name, part in network(batch.to(device)).parts().items():
                part = part.float().cpu()
                if not part.isfinite().all():
                    raise RepaError(
                        f"{network.name} gives features of {title} that are not finite numbers: "
                        "are its weights damaged?"
                    )
                parts.setdefault(name, []).append(part)
        if not parts:
            some = network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=device))
            parts = {name: [part[:0].float().cpu()] for name, part in some.parts().items()}
    return Features(**{name: torch.cat(tensors) for name, tensors in parts.items()})


def gather(features: Features) -> Features:
    """All processes' features on each of them, in the order of the processes.

    The shares may differ in length, and be empty. Without `torch.distributed`, or with one process,
    these features.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features
    return Features(**{name: _gather_rows(part) for name, part in features.parts().items()})


def _gather_rows(rows: Tensor) -> Tensor:
    """(n, D) on the CPU of each process to (N, D) there."""
    nccl = dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
    mine = torch.tensor([len(rows)], device=device)
    counts = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, mine)
    longest = max(int(count) for count in counts)
    padded = torch.zeros(longest, rows.shape[1], dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows
    everyone = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everyone, padded)
    pairs = zip(everyone, counts, strict=True)
    return torch.cat([part[: int(count)].cpu() for part, count in pairs])


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """In float32, products too: no autocast and no TF32, which cuDNN has by default."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
