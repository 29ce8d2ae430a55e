"""Samples on disk: parts while they are drawn, one npz when all are there.

    NAME.partial/request.json            what is being drawn
                 00000064-00000128-1.npz images 64, 65, ..., 127 and their labels
    NAME/000064.png                      if asked for
    NAME.npz                             at the end: `arr_0` (N, H, W, 3) uint8
    NAME.json                            and what it is: the request and the labels

A part is there whole or not at all, so drawing goes on where it was killed, and any number of
processes can share the work. No process ever holds all images.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repa.data.format import to_json, write_atomically
from repa.errors import RepaError

REQUEST = "request.json"


class SampleArchive:
    """The samples called `name`.

    Args:
        name: path without suffix.
        request: all that decides on the images, as JSON values.
        count: number of images N.
        png: also write PNG files.
    """

    def __init__(self, name: Path, request: dict[str, Any], count: int, png: bool):
        self.npz = name.with_name(name.name + ".npz")
        self.record = name.with_name(name.name + ".json")
        self.partial = name.with_name(name.name + ".partial")
        self.pictures = name
        self.request = json.loads(to_json(request))  # as it will be read back
        self.count = count
        self.png = png

    @property
    def complete(self) -> bool:
        """Whether the npz is there, of this request."""
        return self.npz.exists() and _read_request(self.record) == self.request

    def begin(self, overwrite: bool) -> None:
        """Makes the folders; one process calls it before any goes on.

        Raises:
            RepaError: if there are other samples of this name, unless `overwrite`.
        """
        if overwrite:
            self._remove()
        found = _read_request(self.record) or _read_request(self.partial / REQUEST)
        leftovers = [self.npz] if self.npz.exists() else self._png_files() if self.png else []
        if found is None and leftovers:
            raise RepaError(f"{leftovers[0]} exists: choose another --sample-dir, or --overwrite")
        if found is not None and found != self.request:
            raise RepaError(
                f"{self.npz.with_suffix('')} holds other samples (different: "
                f"{', '.join(_differing(found, self.request))}): choose another --sample-dir, or "
                "--overwrite"
            )
        if self.complete:
            return
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            if self.png:
                self.pictures.mkdir(exist_ok=True)
            write_atomically(self.partial / REQUEST, to_json({"request": self.request}))
        except OSError as error:
            raise RepaError(f"--sample-dir {self.pictures}: {error}") from None

    def missing(self) -> list[int]:
        """The indices not drawn yet, in order."""
        there = set().union(*self._parts())
        return [index for index in range(self.count) if index not in there]

    def add(self, indices: range, images: np.ndarray, labels: np.ndarray) -> None:
        """Writes images (n, H, W, 3) uint8 of these indices and labels (n,), PNG files first."""
        if self.png:
            for index, pixels in zip(indices, images, strict=True):
                Image.fromarray(pixels).save(self.pictures / f"{index:06d}.png")
        buffer = io.BytesIO()
        np.savez(buffer, images=images, labels=labels)
        write_atomically(self._part(indices), buffer.getvalue())

    def finish(self) -> None:
        """Makes the npz of the parts; one process calls it when all are there."""
        labels: list[int] = []
        partial = self.npz.with_name(self.npz.name + ".partial")
        array = zipfile.ZipInfo("arr_0.npy")  # with a fixed date: equal images make equal files
        with (
            zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
            archive.open(array, "w", force_zip64=True) as member,
        ):
            for part in self._in_order():
                if not labels:
                    shape = (self.count, *part["images"].shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(member, header)
                member.write(part["images"].tobytes())
                labels += part["labels"].tolist()
        assert len(labels) == self.count, f"{len(labels)} of {self.count} images"
        partial.replace(self.npz)
        write_atomically(self.record, to_json({"request": self.request, "labels": labels}))
        shutil.rmtree(self.partial)

    def _in_order(self) -> Iterator[dict[str, np.ndarray]]:
        """Images and labels, some at a time: parts that interleave are read together."""
        group: list[range] = []
        for part in sorted(self._parts(), key=lambda part: part.start):
            if group and part.start >= max(other.stop for other in group):
                yield self._merge(group)
                group = []
            group.append(part)
        yield self._merge(group)

    def _merge(self, parts: list[range]) -> dict[str, np.ndarray]:
        order = np.argsort(np.concatenate([np.array(part) for part in parts]))
        arrays = [np.load(self._part(part), allow_pickle=False) for part in parts]
        return {
            name: np.concatenate([array[name] for array in arrays])[order]
            for name in ("images", "labels")
        }

    def _parts(self) -> list[range]:
        return [range(*map(int, path.stem.split("-"))) for path in self.partial.glob("*.npz")]

    def _part(self, indices: range) -> Path:
        return self.partial / f"{indices.start:08d}-{indices.stop:08d}-{indices.step}.npz"

    def _png_files(self) -> list[Path]:
        return [path for path in self.pictures.glob("*.png") if path.stem.isdigit()]

    def _remove(self) -> None:
        for path in (self.npz, self.record, *self._png_files()):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.partial, ignore_errors=True)


def _read_request(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())["request"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepaError(f"{path} cannot be read ({error}): delete it, or --overwrite") from None


def _differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
