"""Finished samples as they lie on disk: how they were drawn, and their images."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from repa.errors import RepaError, first_line


def read_request(path: Path) -> dict[str, Any] | None:
    """How samples were drawn, by the record beside them, if there is one.

    Raises:
        RepaError: if the file is no such record.
    """
    try:
        request = json.loads(path.read_bytes())["request"]
        if not isinstance(request, dict):
            raise ValueError("no request in it")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepaError(
            f"{path} is no record of samples ({error}): choose another --sample-dir or move it away"
        ) from None
    return request


def has_png(path: Path) -> bool:
    """Whether the request in a file, if there is one, asks for PNG files."""
    return bool((read_request(path) or {}).get("png"))


def without_png(request: dict[str, Any]) -> dict[str, Any]:
    """What decides on the images themselves."""
    return {name: value for name, value in request.items() if name != "png"}


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of what decides on the images and is not the same in two requests."""
    names = (found.keys() | wanted.keys()) - {"png"}
    return sorted(name for name in names if found.get(name) != wanted.get(name))


def stored_images(npz: Path) -> Iterator[np.ndarray]:
    """The images (H, W, 3) uint8 of an npz of ours, one at a time.

    Raises:
        RepaError: if it is damaged.
    """
    try:
        with zipfile.ZipFile(npz) as archive, archive.open("arr_0.npy") as member:
            np.lib.format.read_magic(member)
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            for _ in range(shape[0]):
                data = member.read(math.prod(shape[1:]))
                yield np.frombuffer(data, dtype).reshape(shape[1:])
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise RepaError(
            f"{npz} is damaged ({first_line(error)}): delete it, and the same command draws it "
            "again"
        ) from None
