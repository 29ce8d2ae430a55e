"""MS-COCO in one zip or further down in a folder: never taken for images without captions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from repa.data.sources import Source, open_source
from repa.errors import RepaError

Write = Callable[[Path, dict[str, bytes]], Path]
FILES = {
    "train2014/COCO_train2014_000000000009.jpg": b"one",
    "val2014/COCO_val2014_000000000042.jpg": b"two",
    "annotations/instances_train2014.json": b"{}",
    "annotations/captions_train2014.json": b"{}",
}


@pytest.mark.parametrize("wrapping", ["", "all/of/"])
def test_a_zip_of_the_whole_tree_is_refused(
    tmp_path: Path, write_zip: Write, wrapping: str
) -> None:
    files = {wrapping + name: data for name, data in FILES.items()}
    path = write_zip(tmp_path / "coco.zip", files)
    message = (
        rf"^{path} holds MS-COCO and its captions \({wrapping}annotations/captions_train2014.json"
        r"\), which are not read from one zip: unpack it and give the folder that holds annotations"
    )
    for split in (None, "val"):
        with pytest.raises(RepaError, match=message):
            open_source(str(path), split=split)


def test_a_folder_that_holds_it_is_refused(tmp_path: Path, write_folder: Write) -> None:
    root = write_folder(tmp_path / "data" / "coco", FILES)
    message = rf"^{root.parent} holds MS-COCO and its captions further down: give {root}$"
    for split in (None, "val"):
        with pytest.raises(RepaError, match=message):
            open_source(str(root.parent), split=split)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_without_captions_are_a_source_still(
    tmp_path: Path, write_folder: Write, write_zip: Write, kind: str
) -> None:
    files = {f"coco/{name}": data for name, data in FILES.items() if "captions" not in name}
    files |= {"__MACOSX/coco/annotations/captions_train2014.json": b""}
    write = write_zip if kind == "zip" else write_folder
    source = open_source(str(write(tmp_path / f"coco.{kind}", files)))
    assert isinstance(source, Source)
    assert source.classes == ["train2014", "val2014"]
