"""Several processes that share one job."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.distributed import distributed_c10d

from repa import lifeline
from repa.devices import pick_device
from repa.errors import RepaError

PATIENCE = timedelta(days=7)


def start_processes(device: str | None) -> PartialState:
    """This process's place among the others, and its device.

    All must come together within the usual minutes. From then on one whose share is done waits for
    the others, however long theirs take.

    Args:
        device: "cpu", "cuda", or None for CUDA where there is any.

    Raises:
        RepaError: if this machine has no such device.
    """
    state = PartialState(cpu=pick_device(device).type == "cpu")
    share_job()
    return state


def share_job() -> None:
    """Lets the processes of the default group wait for each other for days, but not for the dead.

    All must call it, after accelerate has made the group: one that dies then ends all of them.
    Does nothing in a process that is alone.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    lifeline.tie(dist.get_rank(), dist.get_world_size(), broadcast_object_list)
    # PyTorch has a public name for it since 2.12.
    set_timeout = getattr(dist, "set_timeout", None) or distributed_c10d._set_pg_timeout
    set_timeout(PATIENCE, dist.group.WORLD)


def on_main(state: PartialState, action: Callable[[], object]) -> None:
    """Runs something on the main process, while the others wait.

    Raises:
        RepaError: on the main process, if the action raises it.
        SystemExit: then, on the others: one message is enough.
    """
    error: RepaError | None = None
    if state.is_main_process:
        try:
            action()
        except RepaError as raised:
            error = raised
    failed = [error is not None]
    if state.num_processes > 1:
        broadcast_object_list(failed)
        state.wait_for_everyone()  # who leaves while another still receives would abort it
    if error is not None:
        raise error
    if failed[0]:
        raise SystemExit(2)


def share(count: int, process: int, processes: int) -> range:
    """The process's part of so many things: contiguous, and together all of them in order."""
    return range(count * process // processes, count * (process + 1) // processes)


def gather_rows(rows: Tensor) -> Tensor:
    """All processes' rows on each of them, in the order of the processes.

    Args:
        rows: (n, ...), on the CPU; n may differ between the processes, and be 0.

    Returns:
        (N, ...) on the CPU. Without `torch.distributed`, or with one process, the same tensor.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    nccl = dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
    mine = torch.tensor([len(rows)], device=device)
    counts = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, mine)
    longest = max(int(count) for count in counts)
    padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows
    everyone = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everyone, padded)
    pairs = zip(everyone, counts, strict=True)
    return torch.cat([part[: int(count)].cpu() for part, count in pairs])
