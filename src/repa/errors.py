"""The one exception that a command shows to its user as a single line."""

from __future__ import annotations


class RepaError(Exception):
    """Something the user can fix: what was given, what was expected, what to do. One line."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
