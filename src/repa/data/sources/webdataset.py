"""WebDataset tars: one image a sample, its class and caption in files of the same name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from repa.data.sources.base import Item, Source, is_image_name, number_labels, printable
from repa.data.sources.captions import clean, warn_of_missing
from repa.data.sources.files import common_folder, label_by_folder
from repa.data.sources.tars import Fields, TarReader, index_tar, open_tar
from repa.errors import RepaError

WNID = re.compile(r"n\d{8}")  # WordNet id: ImageNet's own tars are n01440764.tar and so on
MAX_FIELD = 1 << 20  # bytes of a class, a caption or a JSON object


class Sample(NamedTuple):
    """One image: its name in its tar and in the source, its label if it has one, its captions."""

    key: str
    name: str
    label: int | str | None
    captions: tuple[str, ...]


def open_tars(name: str, paths: list[Path]) -> Source:
    """Samples of one or more tars, in their order.

    A sample is all files whose names agree up to the first dot of the base name. Its label is in
    `.cls` or in `label` of `.json`; where no sample has one, labels come from the tars, if these
    are ImageNet's own (one a class), or else from the top-level folders. Its caption is in `.txt`
    or in `caption` of `.json`. Samples without an image are none.

    Args:
        name: of the source.
        paths: the tars.

    Raises:
        RepaError: if a file is no tar or compressed, there is no image, labels do not fit, or a
            label or caption is not UTF-8.
    """
    reader = TarReader(paths)
    samples: list[Sample] = []
    cut: set[str] = set()  # samples of which a part may be missing
    for number, (path, prefix) in enumerate(zip(paths, _prefixes(paths), strict=True)):
        with open_tar(path) as file:
            fields_by_key, is_whole = index_tar(path, file)
            for key, fields in fields_by_key.items():
                where = f"{printable(key)} in {path.name}"
                image = _image_field(fields, where)
                if image is not None:
                    sample = Sample(key, f"{prefix}/{key}", *_describe(file, fields, where))
                    samples.append(sample)
                    reader.add(sample.name, number, *fields[image])
        if not is_whole and samples:
            cut.add(samples[-1].name)
    if any(sample.label is not None for sample in samples):
        samples = [s for s in samples if s.label is not None or s.name not in cut]
        labels, classes = number_labels(name, [_label(sample) for sample in samples])
    elif all(WNID.fullmatch(path.stem) for path in paths):
        labels, classes = _label_by_folder([sample.name for sample in samples])
    else:
        labels, classes = _label_by_folder([sample.key for sample in samples])
    items = [Item(s.name, i, s.captions) for s, i in zip(samples, labels, strict=True)]
    warn_of_missing(name, items)
    return Source(name, items, classes, reader.read)


def _prefixes(paths: list[Path]) -> list[str]:
    """What makes samples of different tars differ: the tars' names, from where they differ."""
    common = os.path.commonpath([path.parent for path in paths])
    names = [path.relative_to(common) for path in paths]
    short = [name.with_suffix("").as_posix() for name in names]
    return short if len(set(short)) == len(short) else [name.as_posix() for name in names]


def _image_field(fields: Fields, where: str) -> str | None:
    images = [field for field in fields if is_image_name(field)]
    images = [field for field in images if "." not in field] or images  # jpg rather than mask.png
    if len(images) > 1:
        raise RepaError(f"sample {where} has the images {', '.join(images)}; expected one")
    return images[0] if images else None


def _describe(
    file: BinaryIO, fields: Fields, where: str
) -> tuple[int | str | None, tuple[str, ...]]:
    """Label, None if there is none, and captions of a sample."""
    cls, text, data = (_read(file, fields, field, where) for field in ("cls", "txt", "json"))
    try:
        info = json.loads(data or b"{}")
        label = info.get("label")
        captions = info.get("caption") or []
        captions = [captions] if isinstance(captions, str) else captions
        is_sound = label is None or type(label) in (int, str)
        is_sound = is_sound and all(isinstance(caption, str) for caption in captions)
    except (ValueError, AttributeError, TypeError, RecursionError):
        is_sound = False
    if not is_sound:
        raise RepaError(
            f"the .json of {where} is not of the form "
            '{"label": number or name, "caption": text or list of texts}'
        )
    if cls:
        label = int(cls) if re.fullmatch(r"-?\d{1,18}", cls) else cls
    if text:
        captions = [text]
    return label, clean(captions)


def _read(file: BinaryIO, fields: Fields, field: str, where: str) -> str:
    """A small field as text, empty if there is none."""
    offset, size = fields.get(field, (0, 0))
    if size > MAX_FIELD:
        raise RepaError(f"the .{field} of {where} has {size} bytes; expected at most {MAX_FIELD}")
    try:
        return os.pread(file.fileno(), size, offset).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RepaError(
            f"the .{field} of {where} is not UTF-8 (byte {error.start}); save it in that encoding"
        ) from None


def _label(sample: Sample) -> int | str:
    if sample.label is None:
        raise RepaError(f"sample {printable(sample.name)} has no label; others have one")
    return sample.label


def _label_by_folder(keys: list[str]) -> tuple[list[int], list[str]]:
    wrapping = len(common_folder(sorted(keys)))
    return label_by_folder([key[wrapping:] for key in keys])
