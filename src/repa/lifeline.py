"""A lifeline between the processes of a job: when one dies, all end, and the first error is told.

Each process holds a TCP connection to process 0 and says on it, once, how it ended. A connection
that closes without a word is a death; the kernel's keepalive notices a machine that is gone, so
that no process has to show that it lives: it may be busy for hours. Process 0 judges which error
was first, says it, and tells the others to end. Only the standard library in here; what is sent is
JSON, and the connections are opened by a secret that the processes share through their group.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import NoReturn

from repa.rendezvous import LINE, Broadcast, Peers, connect

SETTLE = 0.5  # seconds in which process 0, if it fails of the same error, takes it for its own
GRACE = 5.0  # and those in which the cause of what looks like a consequence may be told


@dataclass(frozen=True)
class End:
    """How a process ended.

    Args:
        process: its number.
        code: its exit code; 0 for all good ends.
        text: what to say of it, one line.
        grace: seconds in which another process may have a better word for it.
        told: whether it has been said.
    """

    process: int
    code: int
    text: str = ""
    grace: float = 0.0
    told: bool = False


class Lifeline:
    """One process's end of it, with daemon threads that listen and judge.

    Args:
        process: this process's number.
        peers: connections by number: on process 0 those to all others, elsewhere that to process 0.
    """

    def __init__(self, process: int, peers: Peers):
        self.process, self.peers = process, peers
        self._details = ""
        self._ends: queue.SimpleQueue[End] = queue.SimpleQueue()
        for number in peers:
            threading.Thread(target=self._listen, args=(number,), daemon=True).start()
        watch = self._judge if process == 0 else self._obey
        self._watcher = threading.Thread(target=watch, daemon=True)
        self._watcher.start()

    def fail(self, text: str, code: int, cause: bool = True, details: str = "") -> None:
        """Ends all processes, this one too; returns only where process 0 had left before.

        Args:
            text: the error, one line.
            code: the exit code.
            cause: whether this process failed by itself, as far as it knows.
            details: what this process says besides, if its error was the first: a traceback.
        """
        self._details = details
        with suppress(OSError):
            sys.stdout.flush()
        grace = SETTLE if cause else GRACE
        self._ends.put(End(self.process, code, text[: LINE // 16], grace))
        self._watcher.join()

    def say_goodbye(self) -> None:
        """Tells the others that this process ends well, or for a reason that all share."""
        end = End(self.process, 0)
        self._ends.put(end)
        self._tell(end)

    def close(self) -> None:
        """Closes this process's end without a word to the others: for a fork of it."""
        for peer, _ in self.peers.values():
            os.close(peer.detach())

    def _listen(self, number: int) -> None:
        text = "ended without a word (killed? out of memory?)"
        line = b""
        try:
            line = self.peers[number][0].makefile("rb").readline(LINE)
        except ConnectionResetError:
            pass
        except OSError:  # the keepalive
            text = "does not answer (is its machine or network down?)"
        self._ends.put(End(**json.loads(line)) if line.endswith(b"\n") else End(number, 1, text))

    def _judge(self) -> None:
        """On process 0: waits for the first error, says it and ends all."""
        first, deadline = None, 0.0
        while True:
            wait = None if first is None else max(0.0, deadline - time.monotonic())
            try:
                end = self._ends.get(timeout=wait)
            except queue.Empty:
                break
            if end.code == 0:
                if end.process == 0:
                    return
            elif first is None or end.grace < GRACE <= first.grace:
                first, deadline = end, time.monotonic() + end.grace
            elif end.process == 0 and end.text == first.text:
                first = end
        assert first is not None
        self._say(first)
        self._tell(replace(first, told=True))
        self._leave(first)

    def _obey(self) -> None:
        """On the others: tells process 0 of an own error, and ends when it says so, or dies."""
        own: End | None = None
        while True:
            try:
                end = self._ends.get(timeout=None if own is None else 2 * GRACE)
            except queue.Empty:  # process 0 does not answer
                break
            if end.told:
                if end.process == self.process and self._details:
                    _write(self._details)
                self._leave(end)
            if end.process == self.process:
                if end.code == 0:
                    return
                own = end
                self._tell(end)
            elif end.code == 0:  # process 0 has left, and nobody is told any more
                if own is None:
                    return
                break
            else:
                if own is None or own.grace >= GRACE:
                    # One process a machine is enough; process 0 was that of its own.
                    if self.process == 1 or os.environ.get("LOCAL_RANK", "0") == "0":
                        self._say(end)
                    self._leave(end)
                break
        assert own is not None
        self._say(own)
        os._exit(own.code)

    def _tell(self, end: End) -> None:
        line = json.dumps(asdict(end)).encode() + b"\n"
        for peer, _ in self.peers.values():
            with suppress(OSError):
                peer.sendall(line)

    def _say(self, end: End) -> None:
        text = end.text or f"ended with exit code {end.code}"
        if end.process == self.process:
            _write(self._details or text)
        else:
            _write(f"process {end.process} ({self.peers[end.process][1]}): {text}")

    def _leave(self, first: End) -> NoReturn:
        if first.process != self.process:
            time.sleep(2 * SETTLE)  # a launcher should see first who failed first
        os._exit(first.code)


_lifeline: Lifeline | None = None


def tie(process: int, processes: int, broadcast: Broadcast) -> None:
    """Ties this process to the others of its job; all must call it. Once is enough.

    From then on exceptions that nobody catches end all of them. Where they cannot connect, process
    0 warns, and the job goes on without.

    Args:
        process: this process's number.
        processes: how many there are.
        broadcast: replaces the contents of a list by that of process 0's.
    """
    global _lifeline
    if _lifeline is not None or processes < 2:
        return
    peers = connect(process, processes, broadcast)
    if peers:
        _lifeline = Lifeline(process, peers)
        os.register_at_fork(after_in_child=_let_go)
        atexit.register(say_goodbye)
        sys.excepthook = _fail_by_exception


def fail(text: str, code: int, cause: bool = True) -> None:
    """As `Lifeline.fail`; does nothing where there is no lifeline."""
    if _lifeline is not None:
        _lifeline.fail(text, code, cause)


def say_goodbye() -> None:
    """As `Lifeline.say_goodbye`; does nothing where there is no lifeline."""
    if _lifeline is not None:
        _lifeline.say_goodbye()


def is_consequence(error: BaseException) -> bool:
    """Whether an exception says that communication broke: another process may have ended."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    return "DistError" in names or ("RuntimeError" in names and ("gloo" in text or "NCCL" in text))


def _fail_by_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if _lifeline is not None:
        text = "".join(traceback.format_exception_only(kind, error)).strip().splitlines()[0]
        details = "".join(traceback.format_exception(kind, error, trace))
        _lifeline.fail(text, 1, not is_consequence(error), details)
    sys.__excepthook__(kind, error, trace)


def _let_go() -> None:
    """A fork, such as a reading worker, would hold the connections beyond this process's end."""
    global _lifeline
    if _lifeline is not None:
        _lifeline.close()
    _lifeline = None


def _write(text: str) -> None:
    """To stderr, past Python's buffers: a thread that never runs again may hold their lock."""
    with suppress(OSError):
        os.write(2, f"\n{text.rstrip()}\n".encode())
