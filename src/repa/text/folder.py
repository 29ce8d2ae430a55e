"""Text models in transformers' format: found or downloaded, and loaded as data."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from repa.errors import RepaError, first_line

# What is downloaded of a repository; pickles and other frameworks' weights are not.
FILES = ["*.json", "*.txt", "*.model", "model*.safetensors"]
CONTENTS = "config.json, model.safetensors and tokenizer files"
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def find_folder(name: str, place: str, weights: Path | None) -> Path:
    """The folder with a text model; downloads it into the hub's cache if it is not here.

    Args:
        name: of the encoder, for messages.
        place: a folder, or a repository on the hub.
        weights: the folder to take instead.

    Raises:
        RepaError: if there is no such folder or it cannot be downloaded.
    """
    if weights is not None:
        if not weights.is_dir():
            raise RepaError(
                f"there is no folder {weights}; expected one with {name}'s {CONTENTS} "
                "(--text-encoder-weights)"
            )
        return weights
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", place):
        raise RepaError(f"there is no folder {folder}; expected one with {name}'s {CONTENTS}")
    try:
        return Path(snapshot_download(place, allow_patterns=FILES, ignore_patterns="*/*"))
    except Exception as error:  # the hub's client has its own and requests' errors
        raise RepaError(
            f"no weights for {name}: download of {place} failed ({first_line(error)}); put its "
            f"{CONTENTS} into a folder and name that with --text-encoder-weights"
        ) from None


def load_network(kind: Any, folder: Path) -> Any:
    """A network in float32 with all its weights from a folder; no code in the folder is run.

    Args:
        kind: class of transformers.
        folder: in transformers' format, with safetensors.

    Raises:
        RepaError: if the folder lacks a file or a weight, or a file is broken.
    """
    _check_files(folder)
    try:
        with _quietly():
            network, report = kind.from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
            )
    except Exception as error:  # whatever Python makes of a broken config
        raise _cannot_load(folder, error) from None
    # transformers draws random weights for these.
    lacking = {key for key in report["missing_keys"] if not key.startswith("pooler.")}
    misfits = sorted(lacking | {key for key, *_ in report["mismatched_keys"]})
    if misfits:
        raise RepaError(
            f"cannot load a text encoder from {folder}: {len(misfits)} of the network's weights "
            f"are missing or of another shape, {misfits[0]} first; is it another network's folder?"
        )
    return network


def load_tokenizer(kind: Any, folder: Path, network: Any) -> Any:
    """The tokenizer of a network.

    Args:
        kind: class of transformers.
        folder: in transformers' format.
        network: what the tokens are for.

    Raises:
        RepaError: if its files are missing or broken, or it does not fit the network.
    """
    try:
        with _quietly():
            tokenizer = kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            tokenizer.padding_side = "right"
    except Exception as error:
        raise _cannot_load(folder, error) from None
    _check_vocabulary(tokenizer, folder)
    if tokenizer.pad_token is None or not tokenizer("").input_ids:
        raise RepaError(
            f"{folder}: its tokenizer cannot pad, or makes no token of an empty caption; expected "
            "an encoder's, such as that of CLIP, T5 or BERT"
        )
    if len(tokenizer) > network.config.vocab_size:
        raise RepaError(
            f"{folder}: its tokenizer knows {len(tokenizer)} tokens, its network "
            f"{network.config.vocab_size}; they do not belong together"
        )
    return tokenizer


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise RepaError(f"{folder} has no config.json; expected a folder with {CONTENTS}")
    _check_index(folder)
    if any(folder.glob("model*.safetensors")):
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise RepaError(
            f"{folder} has its weights only in {pickles[0]}; such a file can run code when it is "
            "loaded, so it was not. If you trust its source, convert it: python -c "
            f'"from transformers import AutoModel; AutoModel.from_pretrained({str(folder)!r})'
            f'.save_pretrained({str(folder)!r})"'
        )
    raise RepaError(f"{folder} has no model.safetensors; expected a folder with {CONTENTS}")


def _check_index(folder: Path) -> None:
    """Large models lie in several files, which an index names: none outside of the folder."""
    for index in folder.glob("*.safetensors.index.json"):
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
            strays = sorted(n for n in names if not re.fullmatch(r"[\w.-]+\.safetensors", n))
        except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
            raise RepaError(f"{index} is damaged: expected the files of weights by name") from None
        if strays:
            raise RepaError(f"{index} names {strays[0]!r}, which is no .safetensors file beside it")


def _check_vocabulary(tokenizer: Any, folder: Path) -> None:
    """transformers makes a tokenizer of a few symbols where files are missing, and says nothing."""
    names = tokenizer.vocab_files_names  # none where it spells bytes
    parts = [file for role, file in names.items() if role != "tokenizer_file"]
    complete = [["tokenizer.json"], parts] if parts else [["tokenizer.json"]]
    if not names or any(all((folder / f).is_file() for f in files) for files in complete):
        return
    choices = " or ".join(" and ".join(files) for files in complete)
    raise RepaError(f"{folder} has no tokenizer, which is {choices}; put its files there")


def _cannot_load(folder: Path, error: Exception) -> RepaError:
    reason = textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
    return RepaError(f"cannot load a text encoder from {folder}: {reason}")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' tables of weights not used, such as those of CLIP's image model."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
