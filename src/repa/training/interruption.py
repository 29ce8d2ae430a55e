"""Signals that ask a run to end: heard by any process, agreed on by all at the same step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from repa.processes import PATIENCE

# Of Slurm and other schedulers before they take a job's machines away. Windows has no SIGUSR1.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Interruption:
    """Within its block SIGTERM and SIGUSR1 are noted, and asked for once a step.

    Several processes find out together whether any of them got one: a message goes round while
    they compute a step, and is read after it, so that nobody waits. They learn it one step later
    than one process does.
    """

    def __init__(self) -> None:
        self.heard: str | None = None
        self._previous: dict[int, Any] = {}
        self._group: Any = None
        self._asked: torch.Tensor | None = None
        self._answer: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # no other may
            self._previous = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.heard is None:  # else a second one shall not change how the process ends
            for number, previous in self._previous.items():
                signal.signal(number, previous)

    def join(self) -> None:
        """Finds the other processes, if there are any; all of them call it together."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # On the host, whatever computes.
            self._group = dist.new_group(timeout=PATIENCE, backend="gloo")

    def asked_to_end(self, is_last: bool) -> bool:
        """Whether the run shall end after this step; all processes call it once a step.

        Args:
            is_last: it is the last step anyway; no message is sent that nobody would read.
        """
        if self._group is None:
            return self.heard is not None
        ends = False
        if self._answer is not None:
            self._answer.wait()
            assert self._asked is not None
            ends = bool(self._asked)
        self._answer = None
        if not (ends or is_last):
            self._asked = torch.tensor([self.heard is not None], dtype=torch.int32)
            self._answer = dist.all_reduce(
                self._asked, dist.ReduceOp.MAX, self._group, async_op=True
            )
        return ends

    def _hear(self, number: int, _: FrameType | None) -> None:
        self.heard = signal.Signals(number).name
