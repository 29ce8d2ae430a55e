"""What `repa evaluate` wrote into a run's folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from repa.errors import RepaError
from repa.report.names import printable

KEYS = {"network", "samples", "reference"}  # that every such file has


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The results in this folder by their files' names; other JSON files are left alone.

    Raises:
        RepaError: if a file is no JSON or cannot be read.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        value = read_json(path)
        if isinstance(value, dict) and value.keys() >= KEYS:
            found[printable(path.name)] = value
    return found


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The results in this folder, each with the `step` of the checkpoint that drew the samples.

    What is damaged or no result for samples of `repa sample` is skipped, with a warning: one bad
    file of hundreds should not cost the report.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = read_json(path)
            found.append({**result, "step": _step(result)})
        except RepaError as error:
            print(f"warning: skipped {printable(str(error))}", file=sys.stderr)
        except (KeyError, TypeError, ValueError):
            reason = "expected a result of `repa evaluate` for samples of `repa sample`"
            print(f"warning: skipped {printable(str(path))}: {reason}", file=sys.stderr)
    return found


def read_json(path: Path) -> Any:
    """What the file says.

    Raises:
        RepaError: if it is no JSON or cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise RepaError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RepaError(f"{path} is damaged, not JSON: {error}") from None


def _step(result: Any) -> int:
    """Raises KeyError, TypeError or ValueError where something is missing or of another type."""
    samples, reference = result["samples"], result["reference"]
    step = samples["drawn"]["step"]
    fits = all(type(number) is int and number >= 0 for number in (step, samples["count"]))
    if not fits or not all(isinstance(t, str) for t in (result["network"], reference["path"])):
        raise ValueError("of another type")
    return step
