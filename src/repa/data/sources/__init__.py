"""Where images come from. `open_source` makes a source of what `--source` names."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Literal, overload

from repa.data.sources import huggingface
from repa.data.sources.base import Columns, Item, Source, Stream, is_image_name, printable
from repa.data.sources.coco import is_coco, open_coco, refuse_inner
from repa.data.sources.files import Folder, Zip, is_wanted, open_files
from repa.data.sources.imagenet import open_imagenet_folder, open_imagenet_zip
from repa.data.sources.tars import BRACES, TAR, expand_braces
from repa.data.sources.twemoji import TWEMOJI, open_twemoji
from repa.data.sources.webdataset import open_tars
from repa.errors import RepaError

__all__ = ["TWEMOJI", "Columns", "Item", "Source", "Stream", "open_source", "printable"]

FOUND = Columns()  # all found by type and name


@overload
def open_source(
    source: str,
    *,
    split: str | None = ...,
    streaming: Literal[False] = ...,
    columns: Columns = ...,
) -> Source: ...


@overload
def open_source(
    source: str, *, split: str | None = ..., streaming: bool, columns: Columns = ...
) -> Source | Stream: ...


def open_source(
    source: str,
    *,
    split: str | None = None,
    streaming: bool = False,
    columns: Columns = FOUND,
) -> Source | Stream:
    """Opens what `--source` names.

    Args:
        source: a folder or zip of images; ImageNet's or MS-COCO's own tree; a tar, a folder of
            tars, or a pattern such as `train-{0000..0146}.tar`; a parquet or arrow file or a folder
            of them; `hf:NAME[:CONFIG]`; or `twemoji[-train|-val]`.
        split: part of the dataset, where it has several; train by default.
        streaming: read one sample after another, without storing; Hugging Face datasets only.
        columns: of a Hugging Face dataset.

    Returns:
        A `Stream` if streaming, else a `Source`.

    Raises:
        RepaError: if there is no such source or split, it cannot be read, it has no image, or
            MS-COCO lies in it with captions that would not be read.
    """
    path = Path(source)
    if source.startswith(huggingface.HUB):
        return huggingface.open_hub(source, split, streaming, columns)
    if path.is_dir() and _is_dataset_folder(path):
        return huggingface.open_folder(path, split, streaming, columns)
    if path.is_file() and huggingface.TABLE.search(path.name) and split is None:
        return huggingface.open_file(path, streaming, columns)
    if streaming:
        raise RepaError(f"{source} cannot be streamed; only Hugging Face datasets can")
    return _open_tree(path, split) or _open_other(source, split)


def _open_tree(path: Path, split: str | None) -> Source | None:
    """MS-COCO's own tree or ImageNet's; None if it is neither."""
    if is_coco(path):
        return open_coco(path, split)
    if path.is_dir():
        found = path.glob("*/annotations/captions_*.json")
        refuse_inner(path, (file.relative_to(path).as_posix() for file in found))
        return open_imagenet_folder(path, split)
    if not _is_zip(path):
        return None
    archive = Zip(path)
    refuse_inner(path, archive.names())
    return open_imagenet_zip(archive, split)


def _open_other(source: str, split: str | None) -> Source:
    """What comes in one piece."""
    path = Path(source)
    if split is not None:
        raise RepaError(f"{source} has no splits; leave out --split")
    if source in TWEMOJI:
        return open_twemoji(source)
    if BRACES.search(source) and not path.exists():
        return open_tars(path.name, expand_braces(source))
    if path.is_file() and TAR.search(path.name):
        return open_tars(path.name, [path])
    if path.is_dir():
        tars = _shards(path, TAR)
        name = path.resolve().name
        return open_tars(name, tars) if tars else open_files(name, Folder(path))
    if _is_zip(path):
        return open_files(path.name, Zip(path))
    if path.exists():
        raise RepaError(f"{source} is neither a folder nor a readable zip, tar, parquet or arrow")
    raise RepaError(
        f"no such source: {source}; give a folder, a zip, tar, parquet or arrow file, "
        f"hf:NAME, or {', '.join(TWEMOJI)}"
    )


def _is_zip(path: Path) -> bool:
    return zipfile.is_zipfile(path) and not TAR.search(path.name)  # a tar may end with a zip


def _is_dataset_folder(path: Path) -> bool:
    """Whether a folder is a Hugging Face dataset: saved, or tables in it or in its `data`."""
    tables = _shards(path, huggingface.TABLE) or _shards(path / "data", huggingface.TABLE)
    return huggingface.is_saved(path) or bool(tables)


def _shards(folder: Path, shard: re.Pattern[str]) -> list[Path]:
    """The shards in a folder; none if it also holds images or other folders."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_wanted(entry.name) and (entry.is_dir() or is_image_name(entry.name)):
                    return []
                if is_wanted(entry.name) and shard.search(entry.name):
                    found.append(Path(entry.path))
    except OSError:  # whoever reads it next says so
        return []
    return sorted(found)
