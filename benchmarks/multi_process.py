"""Training on several processes together, against as many that each train alone at the same time.

    python benchmarks/multi_process.py [--model SiT-S/2] [--batch 8] [--processes 2] [--rounds 10]
        [--precision default] [--compile] [--json OUT]

Each process has one thread on a CPU, or one GPU, and takes the step of `repa train` on its own
batch, tokens of DINOv2-B given. Together they are connected as torchrun connects them (gloo on a
CPU, NCCL on CUDA) and average their gradients; alone they do not know of each other. The two ways
alternate, a few steps at a time. Efficiency is images/s together over images/s alone, so it is what
is left after what the processes say to each other.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import socket
import statistics
import tempfile
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from own_step import own_step
from processes import Make, take_steps
from random_dataset import write_random_dataset
from result import write_result
from train_step import ENCODER, PRECISIONS

from repa.config import TrainOptions

WARMUP = 2  # rounds


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="SiT-B/2" if on_gpu else "SiT-S/2")
    parser.add_argument("--batch", type=int, default=256 if on_gpu else 8, help="of a process")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20 if on_gpu else 2, help="of a round")
    parser.add_argument("--precision", default="default", choices=PRECISIONS)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    here = torch.cuda.device_count() if on_gpu else os.cpu_count() or 1
    if not 1 < arguments.processes <= here:
        parser.error(f"--processes {arguments.processes}: expected 2 to {here}, one a core or GPU")

    with tempfile.TemporaryDirectory() as folder:
        ways = measure(arguments, Path(folder))
    rates = {name: way["images_per_second"] for name, way in ways.items()}
    efficiency = rates["together"] / rates["alone"]
    for name, way in ways.items():
        peak = way["peak_bytes"] / 2**30
        print(f"{name:10}{rates[name]:9.2f} images/s, {peak:.2f} GiB a process")
    print(f"efficiency {efficiency:.1%}")
    write_result(arguments, ways=ways, efficiency=efficiency)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """The rate of each way (median of its rounds, which are given too) and its memory."""
    make = own_way(arguments, folder)
    groups = {
        name: Group(make, arguments.processes, connected=name == "together")
        for name in ("together", "alone")
    }
    rates: dict[str, list[float]] = {name: [] for name in groups}
    for _ in range(WARMUP + arguments.rounds):
        for name, group in groups.items():
            rates[name].append(arguments.batch * group.steps_per_second(arguments.steps))
    return {
        name: {
            "images_per_second": statistics.median(rates[name][WARMUP:]),
            "rounds": rates[name][WARMUP:],
            "peak_bytes": group.stop(),
        }
        for name, group in groups.items()
    }


def own_way(arguments: argparse.Namespace, folder: Path) -> Make:
    """A process's step of `repa train` on a batch of its own."""
    options = TrainOptions(
        exp_name="benchmark",
        output_dir=folder,
        report_to="none",
        data_dir=write_random_dataset(folder / "data", arguments.batch, ENCODER),
        model=arguments.model,
        enc_type=ENCODER,
        batch_size=arguments.batch * arguments.processes,
        mixed_precision=PRECISIONS[arguments.precision],
        compile=arguments.compile,
    )
    return partial(own_step, options, arguments.batch)


class Group:
    """Processes that take steps at the same time.

    Args:
        make: makes a process's step.
        processes: how many.
        connected: whether they know of each other.

    Raises:
        RuntimeError: if one fails; its traceback is printed.
    """

    def __init__(self, make: Make, processes: int, connected: bool):
        context = mp.get_context("spawn")
        port = _free_port()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(processes):
            environment = _connected(rank, processes, port) if connected else _alone(rank)
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(make, environment, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._answers()  # all are made

    def steps_per_second(self, count: int) -> float:
        """All processes' steps a second, of so many by each."""
        self._tell(count)
        return sum(count / seconds for seconds in self._answers())

    def stop(self) -> int:
        """Ends the processes; returns the most bytes that one of them took."""
        self._tell(0)
        most = int(max(self._answers()))
        for process in self._processes:
            process.join()
        return most

    def _tell(self, count: int) -> None:
        for pipe in self._pipes:
            pipe.send(count)

    def _answers(self) -> list[float]:
        """One of each, as they come: who fails leaves the others waiting for it."""
        answers = []
        missing = set(self._pipes)
        while missing:
            for pipe in wait(list(missing)):
                assert isinstance(pipe, Connection)
                try:
                    answers.append(float(pipe.recv()))
                except EOFError:
                    raise RuntimeError("a process failed") from None
                missing.remove(pipe)
        return answers


def _connected(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _alone(rank: int) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": str(rank)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _work(make: Make, environment: dict[str, str], pipe: Connection) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    take_steps(make, pipe)


if __name__ == "__main__":
    main()
