"""Between host and device, neither waiting for the other.

A copy from or to memory that the system may move stops the host until all work before it is done,
and the device then waits for the host. Copies from and to pinned memory take their turn in the
device's queue, while the host queues what is next.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """A tensor (...) on a device, of its dtype; on CUDA the host does not wait for the copy."""
    if x.is_cuda or torch.device(device).type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


class Fetched:
    """Tensors that are on their way to the host.

    Args:
        tensors: the copies are queued, on the device of each, behind what computes it.
    """

    def __init__(self, *tensors: Tensor):
        self._tensors = [x.to("cpu", non_blocking=x.is_cuda) for x in tensors]
        devices = {x.device for x in tensors if x.is_cuda}
        self._arrived = [torch.cuda.current_stream(device).record_event() for device in devices]

    def wait(self) -> list[Tensor]:
        """The tensors (...) on the CPU, once they are there."""
        for event in self._arrived:
            event.synchronize()
        return self._tensors
