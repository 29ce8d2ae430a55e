"""Where the package makes its `RepaError`s, and which of these places tests come by."""

import ast
import sys
from pathlib import Path
from typing import Any

import repa
from repa.errors import RepaError

SOURCE = Path(repa.__file__).parent
_seen: set[tuple[str, int]] = set()  # file and line, of this process


def watch() -> None:
    """Notes from now on where errors are made."""
    original = RepaError.__init__

    def noting(self: RepaError, *args: Any, **named: Any) -> None:
        maker = sys._getframe(1)
        _seen.add((maker.f_code.co_filename, maker.f_lineno))
        original(self, *args, **named)

    RepaError.__init__ = noting


def never() -> list[str]:
    """FILE:LINE of each `RepaError(...)` in the package that no code has come by."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "RepaError":
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                if not any((str(path), line) in _seen for line in lines):
                    found.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    return found
