"""MS-COCO with its captions, as it is handed out: folders or zips of images, and annotations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from repa.data.sources.base import Item, Source, is_image_name, printable
from repa.data.sources.captions import clean, read_text, warn
from repa.data.sources.files import Folder, Zip, is_wanted
from repa.errors import RepaError, first_line

YEARS = ("2014", "2017")
SPLITS = {"train": "train", "val": "val", "validation": "val"}  # by --split
PARTS = tuple(part + year for year in YEARS for part in ("train", "val"))
ANNOTATIONS = re.compile(rf"(.*/)?annotations/captions_({'|'.join(PARTS)})\.json")
MAX_ANNOTATIONS = 1 << 30  # bytes; train2014 has 66 million
FORM = '{"images": [{"id", "file_name"}, ...], "annotations": [{"image_id", "caption"}, ...]}'


def is_coco(root: Path) -> bool:
    """Whether a folder holds MS-COCO's captions: `annotations/` or its zip."""
    return any(_annotations(root, part) is not None for part in PARTS)


def open_coco(root: Path, split: str | None) -> Source:
    """The images of one part, in the order of their names, with all their captions; one class.

    Args:
        root: the folder with `train2014/` or `train2014.zip` (also in `images/`) and
            `annotations/captions_train2014.json` or `annotations_trainval2014.zip`; val and 2017
            likewise.
        split: train (also None) or val; or with the year, such as val2017.

    Raises:
        RepaError: if the part is not there or there are several, its annotations are broken, or
            images and annotations do not fit together.
    """
    part = _pick_part(root, split)
    name = f"MS-COCO-{part}"
    annotations, images = _annotations(root, part), _images(root, part)
    assert annotations is not None  # the part was picked by them
    if images is None:
        raise RepaError(f"no images of {part} in {root}: expected {part}/ or {part}.zip")
    captions, num_empty = _read_captions(root, part, annotations)
    files = {n for n in images.names() if is_wanted(n) and is_image_name(n)}
    file = f"captions_{part}.json"
    _refuse_any(captions.keys() - files, f"{part} lacks images that {file} has")
    without = [n for n in files if not captions.get(n)]
    _refuse_any(without, f"{file} has no caption for images of {part}")
    warn(name, {"empty caption": num_empty})
    items = [Item(n, 0, captions[n]) for n in sorted(files)]
    return Source(name, items, ["image"], images.read)


def refuse_inner(source: Path, names: Iterable[str]) -> None:
    """Refuses a zip, or a folder further up, in which MS-COCO's tree lies: no caption gets lost.

    Args:
        source: what the user named.
        names: of the files in it.

    Raises:
        RepaError: if captions of MS-COCO are among them.
    """
    matches = (ANNOTATIONS.fullmatch(name) for name in names if is_wanted(name))
    found = next((match for match in matches if match), None)
    if found is None:
        return
    inner = source / (found[1] or "")
    if source.is_dir():
        raise RepaError(f"{source} holds MS-COCO and its captions further down: give {inner}")
    raise RepaError(
        f"{source} holds MS-COCO and its captions ({found[0]}), which are not read from one zip: "
        "unpack it and give the folder that holds annotations/"
    )


def _pick_part(root: Path, split: str | None) -> str:
    found = [part for part in PARTS if _annotations(root, part) is not None]
    wanted = SPLITS.get(split or "train")
    fitting = [p for p in found if split == p or p[:-4] == wanted]
    if len(fitting) > 1:  # captions of both years, but perhaps not both years' images
        fitting = [p for p in fitting if _images(root, p) is not None] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise RepaError(f"{root} has {' and '.join(fitting)}: name one with --split")
    raise RepaError(f"no split {split or 'train'} in {root}: it has captions of {', '.join(found)}")


def _annotations(root: Path, part: str) -> Folder | Zip | None:
    """What holds `annotations/captions_PART.json`."""
    file = f"annotations/captions_{part}.json"
    if (root / file).is_file():
        return Folder(root)
    archive = root / f"annotations_trainval{part[-4:]}.zip"
    return Zip(archive) if archive.is_file() else None


def _images(root: Path, part: str) -> Folder | Zip | None:
    for place in (root, root / "images"):
        if (place / part).is_dir():
            return Folder(place / part)
        if (place / f"{part}.zip").is_file():
            return Zip(place / f"{part}.zip", f"{part}/")
    return None


def _read_captions(
    root: Path, part: str, reader: Folder | Zip
) -> tuple[dict[str, tuple[str, ...]], int]:
    """Captions by file name, in the order of the annotations, and the number of empty ones."""
    file = f"annotations/captions_{part}.json"
    text = read_text(str(root), reader, file, MAX_ANNOTATIONS)
    try:
        content = json.loads(text)
        names = {_typed(i["id"], int): _typed(i["file_name"], str) for i in content["images"]}
        pairs = [
            (_typed(a["image_id"], int), _typed(a["caption"], str)) for a in content["annotations"]
        ]
        if not len(names) == len(content["images"]) == len(set(names.values())):
            raise ValueError("an image is there twice")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise RepaError(
            f"{file} in {root} is not of the form {FORM}, each image once ({first_line(error)}); "
            "unpack or download it again"
        ) from None
    unknown = {image for image, _ in pairs if image not in names}
    _refuse_any(map(str, unknown), f"{file} in {root} has captions of unknown image ids")
    captions: dict[str, list[str]] = {name: [] for name in names.values()}
    num_empty = 0
    for image, caption in pairs:
        kept = clean([caption])
        num_empty += not kept
        captions[names[image]] += kept
    return {name: tuple(found) for name, found in captions.items()}, num_empty


def _typed(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise TypeError(f"{value!r} is no {wanted.__name__}")
    return value


def _refuse_any(names: Iterable[str], problem: str) -> None:
    """Raises an error that tells how many there are and the first of them."""
    found = sorted(names)
    if found:
        raise RepaError(f"{problem}: {len(found)}, the first is {printable(found[0])}")
