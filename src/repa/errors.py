"""The exceptions that a command shows to its user as a single line."""

from __future__ import annotations

PREEMPTED = 75  # exit code of a run that was asked to end; EX_TEMPFAIL of <sysexits.h>


LONGEST = 2000  # characters of a message; a stranger's file may hold a name of a gigabyte


class RepaError(Exception):
    """Something the user can fix: what was given, what was expected, what to do. One line.

    What a file says may be in the message: line ends and other control characters, which could
    rule a terminal, are shown as escapes, and the middle of what is very long is left out.
    """

    def __init__(self, message: str):
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        super().__init__("".join(c if c.isprintable() else _escaped(c) for c in message))


class PreemptedError(Exception):
    """A run was asked to end and has saved where it is; the same command goes on from there."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
