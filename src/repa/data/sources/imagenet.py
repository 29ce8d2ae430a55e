"""ImageNet as Kaggle hands it out: the `ILSVRC` folder, parts of it, or the zip that holds it."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

from repa.data.sources.base import Item, Source, is_image_name
from repa.data.sources.files import Folder, Zip, is_wanted, label_by_folder
from repa.errors import RepaError

PARTS = {"train": "train", "val": "val", "validation": "val"}  # by --split
INSIDE = ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
IN_ZIP = "Data/CLS-LOC/"
SOLUTION = "LOC_val_solution.csv"  # val has no class folders: its labels are in this table
MAPPING = "LOC_synset_mapping.txt"

Table = Callable[[str], bytes | None]  # the contents of one of these two, None if there is none


def open_imagenet_folder(path: Path, split: str | None) -> Source | None:
    """The images of one split, labeled by WordNet id in alphabetical order.

    Args:
        path: `ILSVRC`, its parent, or a folder in it: `Data`, `CLS-LOC`, `train`, `val`.
        split: train (also None) or val; None for a path that is of one split.

    Returns:
        The source, or None if the folder is not ImageNet's.

    Raises:
        RepaError: if the split is not there, or val's labels are not.
    """
    path = Path(os.path.abspath(path))
    if path.parent.name == "CLS-LOC" and path.name in ("train", "val"):
        root, part = path.parent, PARTS.get(split or path.name)
        if part != path.name:
            raise RepaError(f"{path} is of the split {path.name}, not of {split}")
    else:
        roots = [path / inner for inner in INSIDE]
        roots = [r for r in roots if r.name == "CLS-LOC" and r.is_dir()]
        if not roots:
            return None
        root, part = roots[0], _part(path, split)
    if not (root / part).is_dir():
        raise RepaError(f"no split {part} in {path}: there is no {root / part}")

    def table(file: str) -> bytes | None:
        for folder in (root / part, root, *list(root.parents)[:3]):
            if (folder / file).is_file():
                return (folder / file).read_bytes()
        return None

    return _open(part, Folder(root / part), table)


def open_imagenet_zip(archive: Zip, split: str | None) -> Source | None:
    """As `open_imagenet_folder`, for a zip that holds `ILSVRC`."""
    names = [name for name in archive.names() if is_wanted(name)]
    member = next((name for name in names if IN_ZIP in name), None)
    if member is None:
        return None
    part = _part(archive.path, split)

    def table(file: str) -> bytes | None:
        for name in names:
            if name.rpartition("/")[2] == file:
                return archive.read(name)
        beside = archive.path.with_name(file)
        return beside.read_bytes() if beside.is_file() else None

    root = member[: member.index(IN_ZIP) + len(IN_ZIP)]
    return _open(part, archive.below(f"{root}{part}/"), table)


def _part(path: Path, split: str | None) -> str:
    if split is not None and split not in PARTS:
        raise RepaError(f"no split {split} in {path}: ImageNet has train and val")
    return PARTS[split or "train"]


def _open(part: str, reader: Folder | Zip, table: Table) -> Source:
    names = sorted({n for n in reader.names() if is_wanted(n) and is_image_name(n)})
    if part == "train" or any("/" in name for name in names):  # val too may have class folders
        names = [name for name in names if "/" in name]
        labels, classes = label_by_folder(names)
    else:
        labels, classes = _val_labels(names, table)
    items = [Item(name, label) for name, label in zip(names, labels, strict=True)]
    return Source(f"ImageNet-{part}", items, classes, reader.read)


def _val_labels(names: list[str], table: Table) -> tuple[list[int], list[str]]:
    solution = _read(table, SOLUTION)
    if solution is None:
        raise RepaError(
            f"ImageNet's val has its labels in {SOLUTION}: put it beside the folder or zip"
        )
    try:
        rows = csv.DictReader(solution.splitlines())
        wnids = {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except Exception:  # csv's errors, and what missing cells cause
        raise RepaError(f"{SOLUTION} lacks the columns ImageId, PredictionString") from None
    mapping = _read(table, MAPPING)
    lines = wnids.values() if mapping is None else mapping.splitlines()
    classes = sorted({line.split()[0] for line in lines if line.strip()})
    index = {wnid: label for label, wnid in enumerate(classes)}
    labels = []
    for name in names:
        wnid = wnids.get(name.rpartition(".")[0])
        if wnid not in index:
            table_name = SOLUTION if wnid is None else MAPPING
            raise RepaError(f"{table_name} has no entry for {wnid or name}")
        labels.append(index[wnid])
    return labels, classes


def _read(table: Table, file: str) -> str | None:
    try:
        data = table(file)
    except Exception as error:  # the system's errors, and zipfile's
        raise RepaError(f"cannot read {file}: {error}") from None
    return None if data is None else data.decode("utf-8-sig", "replace")
