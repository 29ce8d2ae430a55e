"""Commands on several processes, started as clusters start them."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

full_only = pytest.mark.skipif(
    os.environ.get("REPA_TRIALS") != "full", reason="only with all trials: make test-reliability"
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
TRAIN = ["--model=SiT-Ti/8", "--enc-type=none", "--batch-size=12", "--report-to=none"]
TRAIN += ["--device=cpu", "--mixed-precision=no", "--logging-steps=1"]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@dataclass
class Job:
    """Processes, or launchers of them, whose output goes to one file."""

    processes: list[subprocess.Popen]
    output: Path

    def wait(self, seconds: float = 60) -> list[int]:
        """Exit codes; those that are left by then are killed, and the test fails."""
        deadline = time.monotonic() + seconds
        try:
            return [p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes]
        finally:
            for process in self.processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Until the output has the text."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            assert all(process.poll() is None for process in self.processes), self.text
            time.sleep(0.05)

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")


def start(output: Path, commands: list[list[str]], envs: list[dict[str, str]]) -> Job:
    """Python with these arguments, each in a session of its own."""
    job = Job([], output)
    with output.open("a") as file:
        for command, env in zip(commands, envs, strict=True):
            job.processes.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | env,
                    start_new_session=True,
                )
            )
    return job


def start_tasks(output: Path, processes: int, *command: str, hosts: int = 1) -> Job:
    """As `srun` does: plain processes, of which nobody ends one when another dies."""
    port = str(free_port())
    each = processes // hosts
    envs = [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank % each),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        for rank in range(processes)
    ]
    return start(output, [list(command)] * processes, envs)


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    lines = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(number) for number in lines]
