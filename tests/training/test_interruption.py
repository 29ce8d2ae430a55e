"""Signals are noted inside the block, by one process and by several together."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from repa.training.interruption import SIGNALS, Interruption


@pytest.fixture
def handlers():
    """Puts back what handles signals now."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_does_nothing_else(handlers: dict, number: int) -> None:
    with Interruption() as interruption:
        interruption.join()
        assert not interruption.asked_to_end(is_last=False)
        os.kill(os.getpid(), number)
        assert interruption.asked_to_end(is_last=False)
        assert interruption.heard == signal.Signals(number).name
        os.kill(os.getpid(), number)  # an impatient scheduler
    os.kill(os.getpid(), number)  # also while the process ends


def test_handlers_are_put_back_where_nothing_was_heard(handlers: dict) -> None:
    with Interruption():
        assert {n: signal.getsignal(n) for n in SIGNALS} != handlers
    assert {n: signal.getsignal(n) for n in SIGNALS} == handlers


def test_another_thread_may_train_without_signals(handlers: dict) -> None:
    heard = []

    def run() -> None:
        with Interruption() as interruption:
            heard.append(interruption.asked_to_end(is_last=False))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert heard == [False]
    assert {n: signal.getsignal(n) for n in SIGNALS} == handlers


def test_several_processes_end_at_the_same_step(tmp_path: Path) -> None:
    """One of them gets the signal, at its fifth step; each writes down where it ended."""
    script = tmp_path / "steps.py"
    script.write_text(
        """
import os, signal, sys
from pathlib import Path
import torch.distributed as dist
from repa.training.interruption import Interruption

dist.init_process_group("gloo")
rank = dist.get_rank()
for last, name in ((20, "signaled"), (20, "not"), (5, "at the end")):
    with Interruption() as interruption:
        interruption.join()
        for step in range(1, last + 1):
            if rank == 1 and step == 5 and name != "not":
                os.kill(os.getpid(), signal.SIGUSR1)
            if interruption.asked_to_end(step == last):
                break
    Path(sys.argv[1], f"{name} {rank}").write_text(str(step))
dist.destroy_process_group()
"""
    )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=120)
    ends = {name: [] for name in ("signaled", "not", "at the end")}
    for name, found in ends.items():
        found += [int((tmp_path / f"{name} {rank}").read_text()) for rank in (0, 1)]
    assert ends == {"signaled": [6, 6], "not": [20, 20], "at the end": [5, 5]}
