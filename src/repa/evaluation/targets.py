"""Files for results: checked before the work, written whole, in the place of former ones only."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from PIL import Image

from repa.config import EvaluateOptions
from repa.errors import RepaError
from repa.evaluation.npz import IMAGES, npz_names
from repa.files import replacing

RESULT_BYTES = 1 << 20  # results of ours are far shorter
SUFFIXES = {"--save-stats": ".npz", "--nearest": ".png", "--prompt-scores": ".csv"}
SCORE_COLUMNS = ("index", "prompt", "score")  # of a list of scores
NEAREST_MARK = ("Software", "repa evaluate --nearest")  # a text in pictures of ours


def check_targets(options: EvaluateOptions) -> None:
    """Finds out before the work, not after it, that a result must not or cannot be written.

    Raises:
        RepaError: if `--output`, `--save-stats`, `--nearest` or `--prompt-scores` would overwrite
            what is read, each other, anything but a former result of its kind, or, without
            `--overwrite`, one of other samples or settings; or if no file can be made there.
    """
    inputs = {
        "--samples": options.samples,
        "--reference": options.reference,
        "--network-weights": options.network_weights,
        "--prompts": options.prompts,
        "--clip-weights": options.clip_weights,
    }
    targets = {
        "--output": options.output,
        "--save-stats": options.save_stats,
        "--nearest": options.nearest,
        "--prompt-scores": options.prompt_scores,
    }
    named = {flag: path for flag, path in targets.items() if path is not None}
    for flag, path in named.items():
        try:
            _check_name(flag, path)
            for source, given in inputs.items():
                if given is not None:
                    _check_apart(flag, path, source, given)
            _check_former(flag, path)
            _check_place(flag, path)
        except (OSError, ValueError) as error:  # such as a name too long, or with a zero byte
            raise RepaError(f"{flag} {path}: {error}") from None
    if not options.overwrite:
        _check_own(options, named)
    for (one, path), (other, other_path) in itertools.combinations(named.items(), 2):
        places = [Path(os.path.realpath(target)) for target in (path, other_path)]
        if any(place in (rest, *rest.parents) for place, rest in (places, reversed(places))):
            raise RepaError(
                f"{one} and {other} are one file, {other_path}, or one lies in the other: "
                "give each a name of its own"
            )


@contextmanager
def writing(flag: str, path: Path) -> Iterator[IO[bytes]]:
    """A file to write a result into, which is at `path`, whole, once the block has ended.

    Args:
        flag: that named it, for messages.
        path: of the result; its folder is made where there is none.

    Raises:
        RepaError: if it cannot be written; nothing new is left then.
    """
    new = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
        raise RepaError(f"{flag} {path} cannot be written: {error.strerror or error}") from None


def _check_name(flag: str, path: Path) -> None:
    if path.is_dir():
        raise RepaError(f"{flag} {path} is a folder; expected the name of a file")
    suffix = SUFFIXES.get(flag, path.suffix)
    if path.suffix != suffix:
        raise RepaError(f"{flag} {path}: expected a name that ends in {suffix}")
    partial = path.with_name(path.name + ".partial")
    if partial.is_dir():
        raise RepaError(f"{flag} {path}: {partial} is a folder; choose another name or delete it")


def _check_apart(flag: str, path: Path, source: str, given: Path) -> None:
    """Neither what is read nor a file in it is a result's place, whatever links lead there."""
    if not given.exists():  # a packaged or remote set, or an error that reading it shows
        return
    place = Path(os.path.realpath(path))
    if place.exists() and place.samefile(given):
        raise RepaError(f"{flag} {path} would overwrite {source} {given}: choose another name")
    if any(folder.exists() and folder.samefile(given) for folder in place.parents):
        raise RepaError(f"{flag} {path} lies in {source} {given}: choose another folder")


def _check_former(flag: str, path: Path) -> None:
    is_former, kind = {
        "--output": (_is_result, "result"),
        "--save-stats": (_is_statistics, "statistics"),
        "--nearest": (_is_picture, "picture"),
        "--prompt-scores": (_is_scores, "list"),
    }[flag]
    if path.exists() and not (path.is_file() and is_former(path)):
        raise RepaError(
            f"{flag} {path} exists and is no former {kind} of repa evaluate: choose another name "
            "or delete it"
        )


def _check_own(options: EvaluateOptions, targets: Mapping[str, Path]) -> None:
    """What is there is this job's, as `--output` says; by themselves the others say it not."""
    output = targets.get("--output")
    former = {} if output is None or not output.exists() else _read_result(output)
    if former and (differing := _differing(options, former)):
        raise RepaError(
            f"--output {output} holds the result of another job (different: "
            f"{', '.join(differing)}): choose another name, or --overwrite"
        )
    for flag, path in targets.items():
        if path.exists() and not former:
            raise RepaError(f"{flag} {path} exists: choose another name, or --overwrite")


def _differing(options: EvaluateOptions, former: Mapping[str, Any]) -> list[str]:
    """What was asked for otherwise when a result was made."""
    differing = []
    for name in ("samples", "reference"):
        found, path = former.get(name), getattr(options, name)
        known = found.get("path") if isinstance(found, dict) else None
        if not isinstance(known, str) or Path(known).resolve() != path.resolve():
            differing.append(name)
    settings = ("network", "neighbors", "seed")
    return differing + [name for name in settings if former.get(name) != getattr(options, name)]


def _is_result(path: Path) -> bool:
    return bool(_read_result(path))


def _read_result(path: Path) -> dict[str, Any]:
    """A former result; empty if the file holds anything else."""
    if path.stat().st_size > RESULT_BYTES:
        return {}
    try:
        result = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    is_ours = isinstance(result, dict) and {"network", "samples"} <= result.keys()
    return result if is_ours else {}


def _is_statistics(path: Path) -> bool:
    try:
        names = npz_names(path)
    except RepaError:
        return False
    return {"network", "mu"} <= names and IMAGES not in names


def _is_picture(path: Path) -> bool:
    key, text = NEAREST_MARK
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(key) == text
    # What Pillow raises for what is no image, is damaged, or would fill the memory.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _is_scores(path: Path) -> bool:
    header = ",".join(SCORE_COLUMNS).encode() + b"\n"
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _check_place(flag: str, path: Path) -> None:
    """Whether a file can be made where the folders would be: the only way to know is to do it."""
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RepaError(
            f"{flag} {path}: no file can be made in {folder} ({error.strerror}): "
            "choose another place"
        ) from None
