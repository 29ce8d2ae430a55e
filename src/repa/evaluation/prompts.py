"""The texts of samples, as `repa sample` writes them beside the images.

NAME.prompts.jsonl    {"index": 0, "file": "000000.png", "prompt": "a red heart"}, a line each
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from repa.config import EvaluateOptions
from repa.config.evaluate import ClipScoreOptions
from repa.errors import RepaError
from repa.files import read_json_lines

FORM = '{"index": 0, "file": "000000.png", "prompt": "a red heart"}'


@dataclass(frozen=True)
class Prompt:
    """The text of a sample, and what `repa sample` calls its PNG file."""

    index: int
    file: str
    text: str


def find_prompts(options: EvaluateOptions, count: int) -> list[Prompt] | None:
    """The prompts of `count` samples: `--prompts`, or what lies beside the samples.

    That is `NAME.prompts.jsonl` for `NAME.npz` and for a folder `NAME`.

    Returns:
        One for each sample, in order; None if there are none, or no CLIP score is wanted.

    Raises:
        RepaError: if they cannot be read or do not fit the samples; or if an option of the CLIP
            score is given where there is none.
    """
    given = options.model_fields_set & ClipScoreOptions.model_fields.keys()
    if options.clip == "none":
        if given > {"clip"}:
            flag = min(given - {"clip"}).replace("_", "-")
            raise RepaError(f"--{flag} is for the CLIP score, which --clip none leaves out")
        return None
    path = options.prompts
    if path is None:
        path = _beside(options.samples)
        if path is None or not path.exists():
            if given:
                looked = (
                    f"there is no {path}" if path else "only an npz or a folder has a file beside"
                )
                raise RepaError(
                    f"--{min(given).replace('_', '-')} is for the CLIP score, and the samples' "
                    f"prompts are not known ({looked}); give them as --prompts"
                )
            return None
    return read_prompts(path, count)


def read_prompts(path: Path, count: int) -> list[Prompt]:
    """The prompts of `count` samples, a line each, in any order; see `repa.sampling.wanted`.

    Raises:
        RepaError: if a line is no such object, an index is not one of the samples or is there
            twice, there are too few lines, or all prompts are empty.
    """
    lines = read_json_lines(path)
    advice = f"give those of all {count} samples, or leave the CLIP score out with --clip none"
    found: dict[int, Prompt] = {}
    for number, line in enumerate(lines, 1):
        index, file, text = (line.get(key) for key in ("index", "file", "prompt"))
        if type(index) is not int or not _is_text(file) or not _is_text(text):
            raise RepaError(f"{path}: line {number} is not of the form {FORM}")
        if not 0 <= index < count or index in found:
            problem = "is there twice" if index in found else f"is none of 0 to {count - 1}"
            raise RepaError(f"{path}: the index {index} of line {number} {problem}; {advice}")
        found[index] = Prompt(index, str(file), str(text).strip())
    if len(found) < count:
        raise RepaError(f"{path} has prompts of {len(found)} of {count} samples; {advice}")
    if not any(prompt.text for prompt in found.values()):
        raise RepaError(f"{path}: all prompts are empty; {advice}")
    return [found[index] for index in range(count)]


def _beside(samples: Path) -> Path | None:
    """Where `repa sample` puts the prompts of these samples; None if it makes no such samples."""
    if samples.suffix == ".npz":
        return samples.with_suffix(".prompts.jsonl")
    if samples.is_dir():
        return Path(f"{os.path.abspath(samples)}.prompts.jsonl")
    return None


def _is_text(value: object) -> bool:
    """Whether it is a string of valid Unicode; JSON can escape half of a character."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False
