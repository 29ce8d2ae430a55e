"""Options in YAML, which may be anyone's: plain values only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from repa.errors import RepaError

MAX_BYTES = 1 << 20  # a recipe has a few thousand


def read_yaml(path: Path, where: str) -> dict[str, Any]:
    """The names and values in a YAML file.

    Aliases (`*name`) are refused: a few lines of them can stand for terabytes.

    Args:
        path: of the file.
        where: what to call it in messages.

    Raises:
        RepaError: if it cannot be read, is no YAML of plain values, or has no names at its top.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise RepaError(f"{where}: expected at most {MAX_BYTES} bytes")
        values = _Loader(data.decode("utf-8")).get_single_data()
    except OSError as error:
        raise RepaError(f"{where}: {error.strerror}") from None
    except RepaError:
        raise
    except RecursionError:
        raise RepaError(f"{where}: not YAML of options: too deeply nested") from None
    except Exception as error:  # PyYAML's own, and what Python makes of impossible dates
        reason = " ".join(str(error).split())
        raise RepaError(f"{where}: not YAML: {reason}") from None
    if not isinstance(values, dict):
        raise RepaError(f"{where}: expected lines of the form `name: value`")
    return {str(name): value for name, value in values.items()}


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", mark)
        return super().compose_node(parent, index)
