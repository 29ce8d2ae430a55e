"""The lifeline alone, in real processes whose group is a folder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from repa import rendezvous
from repa.lifeline import is_consequence

SCRIPT = """
import ctypes, json, multiprocessing, os, signal, sys, time
from pathlib import Path
from repa import lifeline, rendezvous
from repa.commandline import run
from repa.errors import RepaError

process, (folder, *does) = int(os.environ["RANK"]), sys.argv[1:]
rounds = iter(range(99))
lifeline.GRACE = 2.0  # patience of a test
rendezvous.SETUP = float(os.environ.get("SETUP", 60))

def broadcast(values):
    file = Path(folder, str(next(rounds)))
    if process == 0:
        file.with_suffix(".new").write_text(json.dumps(values))
        file.with_suffix(".new").rename(file)
    while not file.exists():
        time.sleep(0.01)
    values[:] = json.loads(file.read_text())

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def die_with_a_worker():
    multiprocessing.get_context("fork").Process(target=time.sleep, args=[20]).start()
    die()

def fail(error):
    raise error

DOES = {
    "work": lambda: time.sleep(0.2),
    "work longer": lambda: time.sleep(2),
    "hold the interpreter": lambda: ctypes.PyDLL(None).sleep(3),
    "wait": lambda: time.sleep(60),
    "die": die,
    "die with a worker": die_with_a_worker,
    "give up": lambda: fail(RepaError("disk full")),
    "give up late": lambda: time.sleep(2) or fail(RepaError("disk full")),
    "break": lambda: fail(ValueError("a bug\\nof two lines")),
    "notice": lambda: fail(RuntimeError("[gloo/pair.cc:1] Connection closed by peer")),
    "follow": lambda: sys.exit(2),
    "be interrupted": lambda: fail(KeyboardInterrupt()),
}

def command():
    lifeline.tie(process, int(os.environ["WORLD_SIZE"]), broadcast)
    DOES[does[process]]()

sys.exit(run("repa", command))
"""
DIED = "ended without a word (killed? out of memory?)"


def start(folder: Path, *does: str, **env: str) -> tuple[list[int], list[str]]:
    """Exit codes and errors of processes that do so."""
    (folder / "script.py").write_text(SCRIPT)
    files = [folder / f"{rank}.txt" for rank in range(len(does))]
    processes = []
    for rank, file in enumerate(files):
        given = {"RANK": str(rank), "WORLD_SIZE": str(len(does)), **env}
        command = [sys.executable, "script.py", str(folder), *does]
        with file.open("w") as errors:
            processes.append(
                subprocess.Popen(command, cwd=folder, stderr=errors, env=os.environ | given)
            )
    try:
        codes = [process.wait(timeout=30) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return codes, [file.read_text().strip() for file in files]


@pytest.mark.parametrize(
    ("does", "codes", "said"),
    [
        (["wait", "die", "wait"], [1, -9, 1], f"process 1 (HOST): {DIED}"),
        (["wait", "die with a worker"], [1, -9], f"process 1 (HOST): {DIED}"),
        (["give up", "wait", "wait"], [2, 2, 2], "repa: error: disk full"),
        (["wait", "wait", "give up"], [2, 2, 2], "process 2 (HOST): repa: error: disk full"),
        (["give up", "give up", "give up"], [2, 2, 2], "repa: error: disk full"),
        (["give up", "follow", "follow"], [2, 2, 2], "repa: error: disk full"),
        (["wait", "follow"], [2, 2], "process 1 (HOST): ended with exit code 2"),
        (["notice", "notice", "give up"], [2, 2, 2], "process 2 (HOST): repa: error: disk full"),
        (["notice", "notice", "die"], [1, 1, -9], f"process 2 (HOST): {DIED}"),
        (["wait", "be interrupted"], [130, 130], "process 1 (HOST): repa: interrupted"),
    ],
)
def test_all_end_with_the_first_error_once(
    tmp_path: Path, does: list[str], codes: list[int], said: str
) -> None:
    found, errors = start(tmp_path, *does)
    assert errors == [said.replace("HOST", socket.gethostname()), *[""] * (len(does) - 1)]
    assert found == codes


def test_a_bug_has_its_traceback_where_it_happened(tmp_path: Path) -> None:
    codes, errors = start(tmp_path, "wait", "break", "notice")
    assert codes == [1, 1, 1]
    assert errors[0] == f"process 1 ({socket.gethostname()}): ValueError: a bug"
    assert errors[1].startswith("Traceback")
    assert errors[1].endswith("ValueError: a bug\nof two lines")
    assert errors[2] == ""


def test_broken_communication_is_told_where_nothing_else_is(tmp_path: Path) -> None:
    codes, errors = start(tmp_path, "notice", "wait")
    assert codes == [1, 1]
    assert errors[0].endswith("RuntimeError: [gloo/pair.cc:1] Connection closed by peer")
    assert errors[1] == ""


@pytest.mark.parametrize("other", ["wait", "notice"])
def test_the_death_of_process_0_is_told_by_the_next(tmp_path: Path, other: str) -> None:
    codes, errors = start(tmp_path, "die", other, "wait", LOCAL_RANK="1")
    assert codes == [-9, 1, 1]
    assert errors[1:] == [f"process 0 ({socket.gethostname()}): {DIED}", ""]


@pytest.mark.parametrize(
    "does",
    [
        ["work", "work longer"],
        ["work longer", "work"],
        ["work", "hold the interpreter", "work longer"],
    ],
    ids=", ".join,
)
def test_who_is_busy_or_done_before_others_is_not_taken_for_dead(tmp_path: Path, does) -> None:
    codes, errors = start(tmp_path, *does)
    assert (codes, errors) == ([0] * len(does), [""] * len(does))


def test_an_error_after_process_0_has_left_is_told_by_its_own_process(tmp_path: Path) -> None:
    codes, errors = start(tmp_path, "work", "give up late")
    assert (codes, errors) == ([0, 2], ["", "repa: error: disk full"])


def test_where_machines_cannot_connect_the_job_goes_on_with_a_warning(tmp_path: Path) -> None:
    codes, errors = start(tmp_path, "work", "work", MASTER_ADDR="host.invalid", SETUP="1")
    assert codes == [0, 0]
    assert errors[0].startswith("warning: processes 1 cannot reach a port of ")
    assert errors[1] == ""


def test_the_kernel_watches_over_idle_connections() -> None:
    with socket.socket() as one:
        rendezvous._keep_alive(one)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, interval, count = (
            one.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        )
        assert idle + interval * count < 60


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/pair.cc:534] Connection closed"), True),
        (RuntimeError("NCCL error: unhandled system error"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("gloo"), False),
    ],
)
def test_broken_communication_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_consequence(error) == expected
