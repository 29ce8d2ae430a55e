"""Starts commands again and again, ended by signals at chosen moments.

As a script, `python -m reliability.victims PLAN.json RESULTS.json`, it imports everything once and
forks a process for each start, so that a start takes no seconds. `run_victims` calls it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"}


@dataclass(frozen=True)
class End:
    """How a start is ended.

    Attributes:
        kind: "event", just before the `at`-th time that something in the folder is opened, made,
            renamed or removed; "steps", so many seconds after it was ready for its first step;
            "write", so many after it began to write a checkpoint.
        at: which event, or the seconds.
        number: of the signal.
    """

    kind: str
    at: float
    number: int


@dataclass(frozen=True)
class Victim:
    """A command that is started once for each end, and once more to be left alone.

    Attributes:
        arguments: of `repa`.
        folder: that it writes to.
        ends: of its starts, in order.
    """

    arguments: Sequence[str]
    folder: str
    ends: Sequence[End]


@dataclass(frozen=True)
class Result:
    """What became of a victim.

    Attributes:
        codes: exit codes of its starts, negative for a signal.
        events: in its last start, as `End` counts them.
        output: of all its starts.
    """

    codes: list[int]
    events: int
    output: str


def run_victims(victims: Sequence[Victim], folder: Path) -> list[Result]:
    """What became of each; `folder` is for files of the scripts, two at a time."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1]), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    scripts = []
    for half in (0, 1):
        plan, results = folder / f"plan{half}.json", folder / f"results{half}.json"
        plan.write_text(json.dumps([asdict(victim) for victim in victims[half::2]]))
        command = [sys.executable, "-m", "reliability.victims", str(plan), str(results)]
        scripts.append((subprocess.Popen(command, env=environment), results))
    found: dict[int, Result] = {}
    for half, (script, results) in enumerate(scripts):
        assert script.wait(900) == 0
        for place, result in enumerate(json.loads(results.read_text())):
            found[2 * place + half] = Result(**result)
    return [found[number] for number in sorted(found)]


def _main(plan: Path, results: Path) -> None:
    import torch

    import repa.sampling.command
    import repa.training.loop  # noqa: F401  what a start would import

    torch.set_num_threads(1)
    found = []
    for number, victim in enumerate(json.loads(plan.read_text())):
        log, counted = plan.with_suffix(f".{number}.log"), plan.with_suffix(f".{number}.events")
        codes = []
        for end in [*victim["ends"], None]:
            pid = os.fork()
            if pid == 0:
                _start(victim["arguments"], victim["folder"], end and End(**end), log, counted)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        found.append(asdict(Result(codes, int(counted.read_text()), log.read_text())))
    results.write_text(json.dumps(found))


def _start(arguments: list[str], folder: str, end: End | None, log: Path, counted: Path) -> None:
    """Runs the command in this process, a fork, and never returns."""
    from repa import cli

    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    events = 0
    if end is None or end.kind == "event":

        def count(event: str, values: tuple[Any, ...]) -> None:
            nonlocal events
            if event in EVENTS and folder in str(values[0]):
                events += 1
                if end is not None and events == end.at:
                    os.kill(os.getpid(), end.number)

        sys.addaudithook(count)
    else:
        threading.Thread(target=_end_later, args=(Path(folder), end), daemon=True).start()
    code = 70
    try:
        code = cli.main(arguments)
        if end is None:
            counted.write_text(str(events))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_later(folder: Path, end: End) -> None:
    sign = "starts.jsonl" if end.kind == "steps" else "checkpoints/.*.partial"
    started = time.time_ns()
    while not any(path.stat().st_mtime_ns > started for path in folder.glob(sign)):
        time.sleep(0.001)
    time.sleep(end.at)
    os.kill(os.getpid(), end.number)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
