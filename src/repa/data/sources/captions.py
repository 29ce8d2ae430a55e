"""Captions beside the images of a folder or zip: `cat1.txt` for `cat1.jpg`, or `metadata.jsonl`."""

from __future__ import annotations

import json
import posixpath
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from repa.data.sources.base import Item, printable
from repa.errors import RepaError, first_line

METADATA = "metadata.jsonl"
FIELDS = ("text", "caption", "captions")  # of a line of it; the first that is there counts
MAX_TEXT_FILE = 1 << 20  # bytes of a .txt
MAX_METADATA_FILE = 1 << 29  # bytes; ten million lines. More is a mistake or an attack

Captions = tuple[str, ...]


class Files(Protocol):
    """What reads files by name: a `Folder` or a `Zip`."""

    def size(self, name: str) -> int: ...

    def read(self, name: str) -> bytes: ...


def read_captions(
    source: str, reader: Files, images: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, Captions], set[str]]:
    """The captions beside a source's images; a warning counts what does not fit together.

    Each line of `cat1.txt` that is not empty is a caption of `cat1.jpg` in the same folder. A line
    of `metadata.jsonl` is `{"file_name": "a.png", "text": "..."}`, the name relative to its own
    folder; `caption` or a list `captions` may stand for `text`, and an image may have several
    lines. Where there is a `metadata.jsonl` with captions, no .txt is read.

    Args:
        source: its name, for messages.
        reader: the files.
        images: names of the images.
        names: of all files, images and others.

    Returns:
        Captions by image name; and the files that are no images but belong to captions. Both are
        empty if the source has no captions.

    Raises:
        RepaError: if a file cannot be read, is not UTF-8 or not of this form, or a
            `metadata.jsonl` names none of the images.
    """
    texts = [name for name in names if name.lower().endswith(".txt")]
    tables = [name for name in names if f"/{name}".endswith(f"/{METADATA}")]
    captions, num_empty = _from_metadata(source, reader, tables)
    notes = {"empty caption": num_empty}
    if captions:
        strays = captions.keys() - set(images)
        if len(strays) == len(captions):
            raise RepaError(
                f"{METADATA} in {source} names none of the images (first: {min(strays)}); expected "
                "file names relative to its own folder"
            )
        notes[f"caption file name in {METADATA} without an image"] = len(strays)
        captions = {name: found for name, found in captions.items() if name not in strays}
    else:
        captions, num_strays = _from_texts(source, reader, texts, images)
        notes[".txt file without an image"] = num_strays
    if not captions:
        return {}, set()
    notes["image without a caption"] = sum(not captions.get(name) for name in images)
    warn(source, notes)
    return captions, {*texts, *tables}


def _from_texts(
    source: str, reader: Files, texts: Sequence[str], images: Sequence[str]
) -> tuple[dict[str, Captions], int]:
    """Captions by image, and the number of .txt files without an image."""
    by_stem = {_stem(name): name for name in texts}
    read: dict[str, Captions] = {}
    captions = {}
    for image in images:
        stem = _stem(image)
        if stem in by_stem:
            if stem not in read:  # cat1.png and cat1.jpg share cat1.txt
                text = read_text(source, reader, by_stem[stem], MAX_TEXT_FILE)
                lines = (line.strip() for line in text.splitlines())
                read[stem] = tuple(line for line in lines if line)
            captions[image] = read[stem]
    return captions, len(texts) - len(read)


def _from_metadata(
    source: str, reader: Files, tables: Sequence[str]
) -> tuple[dict[str, Captions], int]:
    """Captions by file name, as `metadata.jsonl` has them, and the number of empty ones."""
    captions: dict[str, Captions] = defaultdict(tuple)
    num_empty = 0
    for table in tables:
        folder = posixpath.dirname(table)
        for number, line in enumerate(
            read_text(source, reader, table, MAX_METADATA_FILE).split("\n"), 1
        ):
            if line.strip():
                name, texts = _parse(line, f"line {number} of {table} in {source}")
                kept = clean(texts)
                num_empty += len(texts) - len(kept)
                if kept:
                    captions[posixpath.normpath(posixpath.join(folder, name))] += kept
    return dict(captions), num_empty


def _parse(line: str, where: str) -> tuple[str, list[str]]:
    """File name and captions of a line of `metadata.jsonl`; no name is needed without captions."""
    try:
        row = json.loads(line)
        values: Any = next((row[f] for f in FIELDS if row.get(f) is not None), [])
        values = [values] if isinstance(values, str) else values
        name = row.get("file_name")
        is_sound = isinstance(values, list) and all(isinstance(value, str) for value in values)
        is_sound = is_sound and (isinstance(name, str) or not values)
    except (ValueError, AttributeError, TypeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise RepaError(
            f'{where} is not of the form {{"file_name": "a.png", "text": "..."}} '
            '(or "caption", or a list "captions")'
        )
    return name or "", values


def read_text(source: str, reader: Files, name: str, limit: int) -> str:
    """A text file of a source.

    Args:
        source: its name, for errors.
        reader: the files.
        name: of the file.
        limit: bytes that it may have.

    Raises:
        RepaError: if it cannot be read, is larger, or is not UTF-8.
    """
    where = f"{printable(name)} in {source}"
    try:
        size = reader.size(name)
        if size > limit:
            raise ValueError(f"{size} bytes; expected at most {limit}")
        return reader.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RepaError(
            f"{where} is not UTF-8 (byte {error.start}); save it in that encoding"
        ) from None
    except RepaError:
        raise
    except Exception as error:  # the system's errors, and zipfile's
        raise RepaError(f"cannot read {where}: {first_line(error)}") from None


def clean(captions: Sequence[str]) -> Captions:
    """Captions without the white space around them; empty ones are dropped."""
    stripped = (printable(caption.strip()) for caption in captions)
    return tuple(caption for caption in stripped if caption)


def warn(source: str, notes: Mapping[str, int]) -> None:
    """Says, in one line, what was found and how often; nothing if nothing was.

    Args:
        source: its name.
        notes: counts by what was found, in the singular.
    """
    found = [f"{count} x {what}" for what, count in notes.items() if count]
    if found:
        print(f"warning: captions of {source}: {', '.join(found)}", file=sys.stderr)


def warn_of_missing(source: str, items: Sequence[Item]) -> None:
    """Says how many items have no caption, if others have one.

    Args:
        source: its name.
        items: all of it.
    """
    num_missing = sum(not item.captions for item in items)
    if num_missing < len(items):
        warn(source, {"image without a caption": num_missing})


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
