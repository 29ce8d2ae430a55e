"""Which classes samples have: `--classes`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from repa.errors import RepaError
from repa.randomness import Purpose, stream


def choose_labels(
    classes: str, count: int, num_classes: int, names: Sequence[str] = (), seed: int = 0
) -> np.ndarray:
    """The labels of all images.

    Args:
        classes: "random"; "balanced", each class in turn; labels or names with commas, in turn; or
            a text file with a label or name on each line, one for every image.
        count: number of images.
        num_classes: labels are 0 to num_classes - 1.
        names: of the classes, if known.
        seed: of random labels, of which image i's depends on the seed and i alone.

    Returns:
        (count,), int64.

    Raises:
        RepaError: if a label or the file does not fit.
    """
    if classes == "random":
        draws = (stream(seed, Purpose.LABELS, i).integers(num_classes) for i in range(count))
        return np.fromiter(draws, np.int64, count)
    if classes == "balanced":
        return np.arange(count, dtype=np.int64) % num_classes
    if _is_file(classes):
        return _read_labels(Path(classes), count, num_classes, names)
    texts = [classes] if classes in names else classes.split(",")
    chosen = [_label(text, num_classes, names) for text in texts]
    return np.resize(np.array(chosen, np.int64), count)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a list of labels can be longer than any file's name
        return False


def _read_labels(path: Path, count: int, num_classes: int, names: Sequence[str]) -> np.ndarray:
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RepaError(f"--classes {path}: {error}") from None
    if len(lines) != count:
        raise RepaError(f"--classes {path}: {len(lines)} labels for {count} images")
    return np.array([_label(text, num_classes, names) for text in lines], np.int64)


def _label(text: str, num_classes: int, names: Sequence[str]) -> int:
    text = text.strip()
    if text.isascii() and text.isdigit() and int(text) < num_classes:
        return int(text)
    if text in names:
        return names.index(text)
    known = f", one of {', '.join(names[:5])}{', ...' if names[5:] else ''}" if names else ""
    raise RepaError(
        f"--classes {text!r}: expected random, balanced, a label from 0 to {num_classes - 1}"
        f"{known}, or a file of labels"
    )
