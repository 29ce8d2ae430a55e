"""Samples on disk: parts while they are drawn, one npz when all are there.

    NAME.partial/REQUEST/request.json            what is being drawn; REQUEST is its fingerprint
                         00000064-00000128-1.npz images 64, 65, ..., 127 and their labels
    NAME/000064.png                              if asked for
    NAME.npz                                     at the end: `arr_0` (N, H, W, 3) uint8
    NAME.json                                    and what it is: the request and the labels
    NAME.prompts.jsonl                           the text of each image, of models that take texts

A part is there whole or not at all, so drawing goes on where it was killed, and any number of
processes can share the work. Parts of one request are the same images whoever drew them; those of
another never meet them. No process ever holds all images.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repa.errors import RepaError
from repa.files import to_json, write_atomically
from repa.locks import only_job
from repa.sampling.request import differing, has_png, read_request, stored_images, without_png

REQUEST = "request.json"
WINDOW = 256  # images in memory at a time while the npz is made
PART_NAME = re.compile(r"(\d{8})-(\d{8})-(\d+)")


class SampleArchive:
    """The samples called `name`.

    Args:
        name: path without suffix.
        request: all that decides on the images, as JSON values.
        count: number of images N.
        png: also write PNG files.

    Raises:
        RepaError: if the path names a folder only.
    """

    def __init__(self, name: Path, request: dict[str, Any], count: int, png: bool):
        if name.name in ("", ".."):
            raise RepaError(f"--sample-dir {name}: expected a name for the samples: {name}/run")
        self.npz = name.with_name(name.name + ".npz")
        self.record = name.with_name(name.name + ".json")
        self.prompts = name.with_name(name.name + ".prompts.jsonl")
        self.partial = name.with_name(name.name + ".partial")
        self.pictures = name
        self.request = json.loads(to_json(request))  # as it will be read back
        images = to_json(without_png(self.request))
        self.parts = self.partial / hashlib.sha256(images).hexdigest()[:16]
        self.count = count
        self.png = png

    @property
    def complete(self) -> bool:
        """Whether the npz is there, whole and of this request, and PNG files if asked for."""
        return self._drawn and (not self.png or has_png(self.record))

    @property
    def _drawn(self) -> bool:
        return zipfile.is_zipfile(self.npz) and self._is_own(read_request(self.record))

    def alone(self) -> AbstractContextManager[None]:
        """A block that one job at a time is in, of all that write these samples.

        Raises:
            RepaError: at once, if another job is in it.
        """
        folder, name = self.pictures.parent, self.pictures.name
        return only_job(folder, self.pictures, f".{name}.repa-job.lock")

    def begin(self, overwrite: bool) -> None:
        """Makes the folders; one process calls it before any goes on.

        Args:
            overwrite: remove what is there of another request. What is there of this one is kept.

        Raises:
            RepaError: if there are other samples of this name, unless `overwrite`, or the folders
                cannot be made.
        """
        try:
            self._make_room(overwrite)
            if self.png and not self._has_png_files():
                self.pictures.mkdir(parents=True, exist_ok=True)
                self._picture_what_is_there()
            if self.complete:
                self._remove_parts()
                return
            self.parts.mkdir(parents=True, exist_ok=True)
            write_atomically(self.parts / REQUEST, to_json({"request": self.request}))
        except OSError as error:
            raise RepaError(f"--sample-dir {self.pictures}: {error}") from None

    def missing(self) -> list[int]:
        """The indices not drawn yet, in order."""
        there = set().union(*self._parts())
        return [index for index in range(self.count) if index not in there]

    def add(self, indices: range, images: np.ndarray, labels: np.ndarray) -> None:
        """Writes images (n, H, W, 3) uint8 of these indices and labels (n,), PNG files first.

        Raises:
            RepaError: if they cannot be written.
        """
        try:
            if self.png:
                self._save_png_files(indices, images)
            buffer = io.BytesIO()
            np.savez(buffer, images=images, labels=labels)
            write_atomically(self._part(indices), buffer.getvalue())
        except OSError as error:
            raise _cannot_write(error) from None

    def finish(self) -> None:
        """Makes the npz of the parts; one process calls it when all are there.

        Raises:
            RepaError: if it cannot be written or a part is damaged.
        """
        partial = self.npz.with_name(self.npz.name + ".partial")
        try:
            labels = self._assemble(partial)
            partial.replace(self.npz)
            write_atomically(self.record, to_json({"request": self.request, "labels": labels}))
        except OSError as error:
            raise _cannot_write(error) from None
        finally:
            partial.unlink(missing_ok=True)
        self._remove_parts()

    def _make_room(self, overwrite: bool) -> None:
        """Removes other samples of this name, or refuses to."""
        if self.npz.is_dir():
            raise RepaError(f"{self.npz} is a folder: choose another --sample-dir")
        finished = read_request(self.record)
        is_own = self._is_own(finished)
        if finished is not None and not is_own:
            self._allow(overwrite, finished)
            self._remove_finished(finished)
        for path in self.partial.glob(f"*/{REQUEST}"):
            if path.parent != self.parts:
                self._allow(overwrite, {} if overwrite else read_request(path) or {})
                shutil.rmtree(path.parent)
        foreign: list[Path] = []
        if not is_own and not self.parts.exists():
            results = [self.npz, self.prompts] if "prompts" in self.request else [self.npz]
            foreign = [path for path in results if path.exists()]
        if self.png and not self._has_png_files():
            foreign += self._png_files()
        if foreign and not overwrite:
            raise RepaError(f"{foreign[0]} exists: choose another --sample-dir, or --overwrite")

    def _allow(self, overwrite: bool, other: dict[str, Any]) -> None:
        if not overwrite:
            raise RepaError(
                f"{self.pictures} holds other samples (different: "
                f"{', '.join(differing(other, self.request))}): choose another --sample-dir, or "
                "--overwrite"
            )

    def _remove_finished(self, request: dict[str, Any]) -> None:
        """The npz, its record and the PNG files that were written with it."""
        written = self._png_files() if request.get("png") else []
        # The record last: it knows of the others.
        for path in (self.npz, self.prompts, *written, self.record):
            path.unlink(missing_ok=True)

    def _png_files(self) -> list[Path]:
        return [path for path in self.pictures.glob("*.png") if re.fullmatch(r"\d{6,}", path.stem)]

    def _is_own(self, request: dict[str, Any] | None) -> bool:
        """Whether a request is of the same images, with or without PNG files."""
        return request is not None and without_png(request) == without_png(self.request)

    def _has_png_files(self) -> bool:
        """Whether PNG files of these images were written, as far as there are images."""
        return has_png(self.record if self._drawn else self.parts / REQUEST)

    def _picture_what_is_there(self) -> None:
        """Writes the PNG files of images that were drawn without them."""
        if not self._drawn:
            for part in self._parts():
                self._save_png_files(part, self._read(part)["images"])
            return
        for index, image in enumerate(stored_images(self.npz)):
            self._save_png_files(range(index, index + 1), image[None])
        labels = json.loads(self.record.read_bytes())["labels"]
        write_atomically(self.record, to_json({"request": self.request, "labels": labels}))

    def _save_png_files(self, indices: range, images: np.ndarray) -> None:
        for index, pixels in zip(indices, images, strict=True):
            Image.fromarray(pixels).save(self.pictures / f"{index:06d}.png")

    def _remove_parts(self) -> None:
        shutil.rmtree(self.parts, ignore_errors=True)
        with suppress(OSError):  # not empty, or not there
            self.partial.rmdir()

    def _assemble(self, path: Path) -> list[int]:
        """Streams the images into an npz; returns their labels."""
        labels: list[int] = []
        array = zipfile.ZipInfo("arr_0.npy")  # with a fixed date: equal images make equal files
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
            archive.open(array, "w", force_zip64=True) as member,
        ):
            for images, their_labels in self._in_order():
                if not labels:
                    shape = (self.count, *images.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(member, header)
                member.write(images.data)
                labels += their_labels.tolist()
        return labels

    def _in_order(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images and labels, a window at a time: parts may interleave and overlap."""
        parts = self._parts()
        for start in range(0, self.count, WINDOW):
            window = range(start, min(start + WINDOW, self.count))
            indices, images, labels = [], [], []
            for part in parts:
                if part.start >= window.stop or part[-1] < start:
                    continue
                if rows := [row for row, index in enumerate(part) if index in window]:
                    arrays = self._read(part)
                    indices += [part[row] for row in rows]
                    images.append(arrays["images"][rows])
                    labels.append(arrays["labels"][rows])
            _, first = np.unique(indices, return_index=True)
            if len(first) < len(window):
                raise RepaError(f"{self.partial} lacks images: the same command draws them")
            yield np.concatenate(images)[first], np.concatenate(labels)[first]

    def _read(self, part: range) -> dict[str, np.ndarray]:
        path = self._part(part)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                read = {name: arrays[name] for name in ("images", "labels")}
            if {len(array) for array in read.values()} != {len(part)}:
                raise ValueError("of another length")
        except Exception as error:  # whatever numpy makes of broken bytes
            path.unlink(missing_ok=True)
            raise RepaError(
                f"{path} was damaged ({error}) and is removed: the same command draws it again"
            ) from None
        return read

    def _parts(self) -> list[range]:
        names = (PART_NAME.fullmatch(path.stem) for path in self.parts.glob("*.npz"))
        return sorted((range(*map(int, n.groups())) for n in names if n), key=lambda p: p.start)

    def _part(self, indices: range) -> Path:
        return self.parts / f"{indices.start:08d}-{indices.stop:08d}-{indices.step}.npz"


def _cannot_write(error: OSError) -> RepaError:
    return RepaError(f"cannot write samples: {error}; the same command goes on from what is there")
