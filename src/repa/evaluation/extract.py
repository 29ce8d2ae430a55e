"""From images to features in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from repa.errors import RepaError
from repa.evaluation.networks.base import Features, Network
from repa.processes import gather_rows


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
    """All processes' features on each of them, in the order of the processes (`gather_rows`)."""
    return Features(**{name: gather_rows(part) for name, part in features.parts().items()})


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
