"""Where `RepaError`s are made, for a test that each documented error has one of its message."""

import ast
import sys
from pathlib import Path
from typing import Any

import repa
from repa.errors import RepaError

SOURCE = Path(repa.__file__).parent
made: set[tuple[str, int]] = set()  # file and line, in this process


def watch() -> None:
    """Notes from now on where errors are made."""
    original = RepaError.__init__

    def noting(self: RepaError, *args: Any, **kwargs: Any) -> None:
        caller = sys._getframe(1)
        made.add((caller.f_code.co_filename, caller.f_lineno))
        original(self, *args, **kwargs)

    RepaError.__init__ = noting  # type: ignore[method-assign]


def never_made() -> list[str]:
    """FILE:LINE of each `RepaError(...)` in the package that no code has come by."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "RepaError":
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                if not any((str(path), line) in made for line in lines):
                    found.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    return found
