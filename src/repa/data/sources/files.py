"""Folders and zip files of images, labeled by `dataset.json` or by their folders."""

from __future__ import annotations

import json
import os
import re
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from repa.data.sources.base import MAX_CLASSES, Item, Source, is_image_name
from repa.data.sources.captions import read_captions
from repa.errors import RepaError
from repa.zips import read_member

LABEL_FILE = "dataset.json"
MAX_LABEL_FILE = 1 << 29  # bytes; ten million names. More is a mistake or an attack
MAX_IMAGE_FILE = 1 << 30  # bytes of any file of a source
UNWANTED = re.compile(r"(^|/)(\.(?!/)|__MACOSX(/|$))")  # what operating systems leave behind


class Folder:
    """Files below a directory; names are relative, with forward slashes."""

    def __init__(self, root: Path):
        self.root = root

    def names(self) -> Iterable[str]:
        start = len(os.path.join(self.root, ""))
        for folder, _, files in os.walk(self.root, onerror=self._refuse, followlinks=True):
            if os.path.islink(folder) and self._leads_back(Path(folder)):
                raise RepaError(f"{folder} is a link to a folder that it lies in")
            inner = os.path.join(folder, "")[start:]
            yield from (inner + file for file in files)  # no Path: there may be millions

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def read(self, name: str) -> bytes:
        path = self.root / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
                raise ValueError("not a regular file")
            if status.st_size > MAX_IMAGE_FILE:
                raise ValueError(f"{status.st_size} bytes")
            return path.read_bytes()
        except OSError as error:
            if not self.root.is_dir():  # gone, so not the fault of this file
                self._refuse(error)
            raise

    def below(self, folder: str) -> Folder:
        """The files of a folder in this one ("" or ending with a slash)."""
        return Folder(self.root / folder)

    def _leads_back(self, link: Path) -> bool:
        """Whether a link's target holds one of the folders on the way to the link."""
        target = link.resolve()
        way = [link.parent, *link.parent.parents]
        way = way[: way.index(self.root) + 1] if self.root in way else way
        return any(folder.resolve().is_relative_to(target) for folder in way)

    def _refuse(self, error: OSError) -> NoReturn:
        raise RepaError(f"cannot read {self.root}: {error}") from None


class Zip:
    """Members of a zip file below a folder in it ("" or ending with a slash).

    Each process opens it for itself: a shared offset would mix reads.
    """

    def __init__(self, path: Path, folder: str = ""):
        self.path = path
        self.folder = folder
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def names(self) -> Iterable[str]:
        names = [name for name in self._zip().namelist() if name and not name.endswith("/")]
        for name in names:
            check_inside(self.path, name)
        return (name[len(self.folder) :] for name in names if name.startswith(self.folder))

    def size(self, name: str) -> int:
        return self._zip().getinfo(self.folder + name).file_size

    def read(self, name: str) -> bytes:
        return read_member(self._zip(), self.folder + name, MAX_IMAGE_FILE)

    def below(self, folder: str) -> Zip:
        """The members of a folder in this one."""
        inner = Zip(self.path, self.folder + folder)
        inner._opened = self._opened  # its listing took a while
        return inner

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": None}

    def _zip(self) -> zipfile.ZipFile:
        try:
            if self._opened is None:
                self._opened = (os.getpid(), zipfile.ZipFile(self.path))
            elif self._opened[0] != os.getpid():  # forked: keep the listing, not the offset
                self._opened = (os.getpid(), self._opened[1])
                self._opened[1].fp = self.path.open("rb")
        except Exception as error:  # whatever zipfile makes of broken bytes
            raise RepaError(f"cannot read {self.path}: {error}") from None
        return self._opened[1]


def open_files(name: str, reader: Folder | Zip) -> Source:
    """The files below a folder or in a zip, without the folders that all of them lie in.

    Labels come from `dataset.json` (`{"labels": [[name, class], ...]}`) if there is one, else from
    the top-level folders, sorted; images at the top level then share a class of their own, the
    last. Captions come from files beside the images, if there are any: see `read_captions`.

    Args:
        name: of the source.
        reader: the files.

    Raises:
        RepaError: if it cannot be read, has no file, or its `dataset.json` or captions are broken.
    """
    names = sorted({n for n in reader.names() if is_wanted(n)})  # a zip may hold a name twice
    images = [n for n in names if is_image_name(n)]
    captions, beside = read_captions(name, reader, images, names)
    names = [n for n in names if n not in beside]
    # Other files, a README or a list, neither wrap nor make classes.
    deciding = sorted(images + [n for n in names if n.endswith(LABEL_FILE)]) or names
    if images:
        names = _among_images(names, images, deciding)
    wrapping = common_folder(deciding)
    if wrapping:
        names = [n[len(wrapping) :] for n in names if n.startswith(wrapping)]
        captions = {n[len(wrapping) :]: texts for n, texts in captions.items()}
        reader = reader.below(wrapping)
    if LABEL_FILE in names:
        names.remove(LABEL_FILE)
        labels = read_labels(name, reader)
        missing = [n for n in names if n not in labels]
        if missing:
            raise RepaError(f"{LABEL_FILE} in {name} has no label for {missing[0]}")
        classes = [str(i) for i in range(max(labels.values(), default=0) + 1)]
        indices = [labels[n] for n in names]
    else:
        indices, classes = label_by_folder(names)
    items = [Item(n, i, captions.get(n, ())) for n, i in zip(names, indices, strict=True)]
    return Source(name, items, classes, reader.read)


def read_labels(name: str, reader: Folder | Zip) -> dict[str, int]:
    """Labels by file name, of the `dataset.json` at the top.

    Args:
        name: of the source, for errors.
        reader: the files.

    Raises:
        RepaError: if it cannot be read, or does not hold labels.
    """
    try:
        size = reader.size(LABEL_FILE)
        if size > MAX_LABEL_FILE:
            raise ValueError(f"{size} bytes; expected at most {MAX_LABEL_FILE}")
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


def check_inside(archive: Path, name: str) -> None:
    """Refuses an archive with a member whose name leads out of it.

    Members are read where they lie, never unpacked, but who packs such names means harm.

    Raises:
        RepaError: if the name is absolute or has the part `..`.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise RepaError(
            f"{archive} has the member {name}, which leads out of it; if you trust it, pack it "
            "anew with names below one folder"
        )


def _among_images(names: list[str], images: list[str], deciding: list[str]) -> list[str]:
    """Images, label files, and what lies in folders with images: broken or misnamed ones."""
    folders = {n.rpartition("/")[0] for n in images} - {""}
    kept = set(deciding)
    return [n for n in names if n in kept or n.rpartition("/")[0] in folders]


def is_wanted(name: str) -> bool:
    """Whether a file is none of those that operating systems hide or leave behind."""
    return UNWANTED.search(name) is None


def common_folder(names: list[str]) -> str:
    """The folders that wrap a whole source, with a slash at the end, or "" if there are none.

    A folder that directly holds all the images is no wrapping: it is their class.

    Args:
        names: sorted.
    """
    folders = [name.split("/")[:-1] for name in (names[0], names[-1])] if names else [[], []]
    shared = []
    for one, other in zip(*folders, strict=False):  # what first and last share, all share
        if one != other:
            break
        shared.append(one + "/")
    wrapping = "".join(shared)
    has_folders = any("/" in name[len(wrapping) :] for name in names)
    return wrapping if has_folders or wrapping + LABEL_FILE in names else "".join(shared[:-1])


def label_by_folder(names: list[str]) -> tuple[list[int], list[str]]:
    """Each name's label and the classes: the top-level folders, sorted."""
    folders = [n.split("/", 1)[0] if "/" in n else "" for n in names]
    # A stray file at the top must not shift the folders' labels: its class comes last.
    classes = sorted(set(folders), key=lambda folder: (folder == "", folder))
    index = {folder: label for label, folder in enumerate(classes)}
    return [index[folder] for folder in folders], classes
