"""Hugging Face datasets: parquet and arrow files, `save_to_disk` folders, and the hub's.

Images are read as they are stored, undecoded. Code that comes with a dataset is never run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from repa.data.sources.base import Columns, Item, Source, Stream, number_labels
from repa.data.sources.captions import clean, warn_of_missing
from repa.data.sources.columns import find_columns, type_name
from repa.data.sources.stored import (
    Roots,
    cache_roots,
    check_saved,
    roots_of,
    stored,
    stored_or_nothing,
)
from repa.errors import RepaError, first_line

HUB = "hf:"
TABLE = re.compile(r"\.(parquet|arrow)$")
ENDS = 1 << 16  # bytes of either end of a file that tell it from others of its size


def open_hub(source: str, split: str | None, streaming: bool, columns: Columns) -> Source | Stream:
    """Opens `hf:NAME[:CONFIG]`: a dataset of the hub, or a local folder as the library reads it.

    Args:
        source: as above.
        split: train if None.
        streaming: read one after another, without storing.
        columns: to use; see `find_columns`.

    Raises:
        RepaError: if there is no such dataset or split, or its columns do not fit.
    """
    path, _, config = source.removeprefix(HUB).partition(":")
    if not path:
        raise RepaError(f"{source} names no dataset: expected hf:NAME or hf:NAME:CONFIG")
    return _open_named(source, path, config, split or "train", streaming, columns)


def open_file(path: Path, streaming: bool, columns: Columns) -> Source | Stream:
    """Opens one parquet or arrow file; otherwise as `open_hub`."""
    builder, files = path.suffix[1:], {"train": str(path)}
    dataset = _attempt(
        str(path),
        lambda hf: hf.load_dataset(builder, data_files=files, split="train", streaming=streaming),
    )
    return _open(path.name, dataset, _files(path), streaming, columns, roots_of(path.parent))


def open_folder(
    path: Path, split: str | None, streaming: bool, columns: Columns
) -> Source | Stream:
    """Opens a folder of parquet or arrow files, or of `save_to_disk`; otherwise as `open_hub`."""
    if not is_saved(path):
        return _open_named(str(path), str(path), "", split or "train", streaming, columns)
    dataset = _saved_split(path, split)
    dataset = dataset.to_iterable_dataset() if streaming else dataset
    name, origin = path.resolve().name, [_files(path), split]
    return _open(name, dataset, origin, streaming, columns, roots_of(path))


def is_saved(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` writes."""
    marks = ({"dataset_dict.json"}, {"dataset_info.json", "state.json"})
    return any(all((path / file).is_file() for file in files) for files in marks)


def _open_named(
    source: str, path: str, config: str, split: str, streaming: bool, columns: Columns
) -> Source | Stream:
    dataset = _attempt(
        source, lambda hf: hf.load_dataset(path, config or None, split=split, streaming=streaming)
    )
    if not Path(path).is_dir():
        return _open(path, dataset, [path, config, split], streaming, columns, cache_roots())
    origin, roots = [_files(Path(path)), config, split], roots_of(Path(path)) + cache_roots()
    return _open(Path(path).resolve().name, dataset, origin, streaming, columns, roots)


def _attempt(source: str, load: Callable[[Any], Any]) -> Any:
    """What `load` makes of the library, which raises errors of very many types."""
    try:
        import datasets
    except ImportError:
        raise RepaError("Hugging Face datasets need a package: pip install 'repa[hf]'") from None
    try:
        return load(datasets)
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        advice = ""
        if isinstance(error, ConnectionError) or isinstance(cause, ConnectionError):
            advice = "; download its parquet files elsewhere and give their folder as --source"
        raise RepaError(f"cannot read {source}: {first_line(cause)}{advice}") from None


def _saved_split(path: Path, split: str | None) -> Any:
    check_saved(path)
    dataset = _attempt(str(path), lambda hf: hf.load_from_disk(str(path)))
    if not isinstance(dataset, dict):
        if split is not None:
            raise RepaError(f"{path} has no splits; leave out --split")
        return dataset
    if (split or "train") not in dataset:
        raise RepaError(f"no split {split or 'train'} in {path}; it has {', '.join(dataset)}")
    return dataset[split or "train"]


def _files(path: Path) -> list:
    """What tells a file, or the tables in a folder, from others, wherever they lie."""
    paths = [path] if path.is_file() else sorted(p for p in path.rglob("*") if TABLE.search(p.name))
    found = []
    for table in paths:
        size = table.stat().st_size
        with table.open("rb") as file:
            ends = file.read(ENDS)
            file.seek(max(size - ENDS, 0))
            ends += file.read(ENDS)
        found.append([table.relative_to(path).as_posix(), size, hashlib.sha256(ends).hexdigest()])
    return found


def _open(
    name: str, dataset: Any, origin: list, streaming: bool, columns: Columns, roots: Roots
) -> Source | Stream:
    """Source or stream of a dataset of the library; `origin` tells which dataset it is.

    `roots` are the folders in which it may name files.
    """
    if dataset.features is None:  # some streams find out only as they are read
        raise RepaError(f"{name} does not tell its columns; leave out --streaming")
    types = {column: type_name(feature) for column, feature in dataset.features.items()}
    image, label, caption = find_columns(name, types, columns)
    used = [column for column in (image, label, caption) if column is not None]
    classes = getattr(dataset.features.get(label), "names", None)
    dataset = dataset.select_columns(used).with_format(None)
    if types[image] == "Image":
        dataset = _attempt(name, lambda hf: dataset.cast_column(image, hf.Image(decode=False)))
    table = _Table(name, dataset, image, label, caption, classes, roots)
    origin_text = json.dumps([origin, [(column, types[column]) for column in used]])
    return table.stream(origin_text) if streaming else table.source(origin_text)


@dataclass(frozen=True)
class _Table:
    """A dataset of the library, its columns in use, and the names of its classes if it has them.

    `roots` are the folders in which images may lie that are stored as paths.
    """

    name: str
    dataset: Any
    image: str
    label: str | None
    caption: str | None
    classes: list[str] | None
    roots: Roots

    def source(self, origin: str) -> Source:
        labels: list[int] = [0] * len(self.dataset)
        classes = self.classes or ["all"]
        if self.label is not None:
            labels = self._column(self.label)
            for row, label in enumerate(labels):
                self._check_label(row, label)
            if self.classes is None:
                labels, classes = number_labels(self.name, labels)
        texts = [None] * len(labels) if self.caption is None else self._column(self.caption)
        items = [
            Item(_row_name(row), label, _captions(text))
            for row, (label, text) in enumerate(zip(labels, texts, strict=True))
        ]
        warn_of_missing(self.name, items)
        images = self.dataset.select_columns([self.image])
        read = partial(_read_row, images, self.image, self.roots)
        return Source(self.name, items, classes, read, origin)

    def stream(self, origin: str) -> Stream:
        if self.label is not None and self.classes is None:
            raise RepaError(
                f"{self.name} cannot be streamed: the classes in its column {self.label} are known "
                "only at the end; leave out --streaming"
            )
        classes = self.classes or ["all"]
        fingerprint = hashlib.sha256(json.dumps([origin, classes]).encode()).hexdigest()
        split, splits = str(self.dataset.split), self.dataset.info.splits or {}
        count = splits[split].num_examples or None if split in splits else None
        has_captions = self.caption is not None
        return Stream(self.name, classes, has_captions, count, fingerprint, self._samples)

    def _samples(self, start: int) -> Iterator[tuple[Item, bytes]]:
        try:
            for row, values in enumerate(self.dataset.skip(start), start):
                label = 0 if self.label is None else values[self.label]
                self._check_label(row, label)
                captions = () if self.caption is None else _captions(values[self.caption])
                image = stored_or_nothing(values[self.image], self.roots)
                yield Item(_row_name(row), label, captions), image
        except RepaError:
            raise
        except Exception as error:  # of the library, the network, the files
            raise RepaError(f"cannot read on in {self.name}: {first_line(error)}") from None

    def _column(self, column: str) -> list:
        table = self.dataset.select_columns([column]).with_format("arrow")[:]
        return table.column(0).to_pylist()

    def _check_label(self, row: int, label: int | str | None) -> None:
        if label is None:
            raise RepaError(f"row {row} of {self.name} has no label")
        if self.classes is not None and not 0 <= int(label) < len(self.classes):
            raise RepaError(
                f"row {row} of {self.name} has label {label}; expected 0 to "
                f"{len(self.classes) - 1} (-1 is a split without labels)"
            )


def _row_name(row: int) -> str:
    return f"{row:08d}"


def _captions(value: str | list | None) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value or []
    return clean([text for text in texts if text is not None])


def _read_row(images: Any, column: str, roots: Roots, name: str) -> bytes:
    return stored(images[int(name)][column], roots)
