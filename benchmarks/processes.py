"""Several ways to do a thing, each in a process of its own, a step at a time in turn.

So nothing that a way sets (precision, threads, compiled kernels, memory) reaches another, the
memory that each takes is its own, and what else happens on the machine hits all of them alike.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import resource
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

# Makes a way's step. It goes to the process, so it must be a function of a module, or a `partial`.
Make = Callable[[], Callable[[], None]]


@dataclass(frozen=True)
class Measured:
    """What a way took.

    Attributes:
        first: seconds of its first step, compiling included.
        seconds: of each later one.
        peak: most bytes: of its tensors on a GPU, else of its process.
    """

    first: float
    seconds: list[float]
    peak: int

    @property
    def median(self) -> float:
        """Seconds a step."""
        return statistics.median(self.seconds)


def in_turn(ways: Mapping[str, Make], rounds: int, warmup: int = 2) -> dict[str, Measured]:
    """Runs a step of each way, then the next one of each, in reverse order every other round.

    Args:
        ways: by name.
        rounds: that count.
        warmup: rounds before them.

    Raises:
        RuntimeError: if a way fails; its traceback is printed.
    """
    context = mp.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, make in ways.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=_work, args=(make, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        _ask(name, pipes[name])  # has been made; the next is made alone, too
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warmup + rounds):
        order = list(pipes) if number % 2 == 0 else list(reversed(pipes))
        for name in order:
            pipes[name].send(1)
            times[name].append(_ask(name, pipes[name]))
    result = {}
    for name, pipe in pipes.items():
        pipe.send(0)
        result[name] = Measured(times[name][0], times[name][warmup:], int(_ask(name, pipe)))
    for process in processes:
        process.join()
    return result


def _ask(name: str, pipe: Connection) -> float:
    try:
        return float(pipe.recv())
    except EOFError:
        raise RuntimeError(f"{name} failed") from None


def _work(make: Make, pipe: Connection) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    take_steps(make, pipe)


def take_steps(make: Make, pipe: Connection) -> None:
    """Makes a way, then takes as many steps as it is told, again and again, until that is none.

    Answers 0 when made, the seconds of the steps, and at the end `peak_bytes`. If it fails, it
    prints the traceback and closes the pipe.
    """
    on_gpu = torch.cuda.is_available()
    try:
        step = make()
        pipe.send(0)
        while count := pipe.recv():
            started = time.perf_counter()
            for _ in range(count):
                step()
            if on_gpu:
                torch.cuda.synchronize()
            pipe.send(time.perf_counter() - started)
    except Exception:
        traceback.print_exc()
        return
    pipe.send(peak_bytes())


def peak_bytes() -> int:
    """The most memory so far: of tensors on the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
