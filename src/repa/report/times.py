"""How long training took, as its log tells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS = "training_seconds"
Lines = Sequence[Mapping[str, Any]]


def with_seconds(
    lines: Lines, options: Mapping[str, Any], first_step: float = 0
) -> list[dict[str, Any]]:
    """Lines of `metrics.jsonl` with the `training_seconds` until each, if the log tells them.

    They are those of the steps alone, images over images per second: the loop leaves previews,
    evaluations, probes and checkpoints out of this rate, but not out of the log's `seconds`.
    A resumed run drops the lines of steps that it repeats, so no step counts twice.

    Args:
        lines: in order of steps.
        options: of the run.
        first_step: where its first start began; if not at 0, the time before is not known.
    """
    images = options.get("batch_size"), options.get("gradient_accumulation_steps", 1)
    known = all(_is_positive(line.get("images_per_second")) for line in lines)
    if first_step or not known or not all(map(_is_positive, images)):
        return [dict(line) for line in lines]
    images_a_step, seconds, previous, found = images[0] * images[1], 0.0, 0, []
    for line in lines:
        seconds += (line["step"] - previous) * images_a_step / line["images_per_second"]
        previous = line["step"]
        found.append({**line, SECONDS: seconds})
    return found


def minutes_at(lines: Lines, step: float) -> float | None:
    """Minutes of training until a step; between two lines, in proportion; None if not known.

    Args:
        lines: as `with_seconds` gives them.
        step: from 0.
    """
    before, seconds = 0.0, 0.0
    for line in lines:
        if SECONDS not in line:
            return None
        if step <= line["step"]:
            share = (step - before) / (line["step"] - before or 1)
            return (seconds + share * (line[SECONDS] - seconds)) / 60
        before, seconds = line["step"], line[SECONDS]
    return None if step else 0.0


def time_note(options: Sequence[Mapping[str, Any]]) -> str:
    """What counts as training time, in words.

    Whether features were cached tells the dataset; where it is not there, that is left open.

    Args:
        options: of the aligned runs.
    """
    text = "Time is that of the training steps; previews, evaluations and checkpoints do not count"
    cached = [_cached(own) for own in options]
    names = list(dict.fromkeys(name for found in cached for name in found or ()))
    if names:
        return f"{text}, nor does caching the features of {', '.join(names)} before training."
    if None in cached:
        return f"{text}. If features were cached before training, that does not count either."
    return f"{text}."


def _cached(options: Mapping[str, Any]) -> list[str] | None:
    """Encoders of the run whose features its dataset holds; None if it cannot be read."""
    try:
        manifest = json.loads((Path(str(options["data_dir"])) / "manifest.json").read_bytes())
        names = [name.strip() for name in str(options["enc_type"]).split(",")]
        return [name for name in names if name in manifest["features"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
