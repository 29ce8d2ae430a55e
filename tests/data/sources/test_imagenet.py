from collections.abc import Callable
from pathlib import Path

import pytest

from repa.data.sources import Source, open_source
from repa.errors import RepaError

Write = Callable[[Path, dict[str, bytes]], Path]

WNIDS = ["n01440764", "n01443537", "n15075141"]
MAPPING = b"n01443537 goldfish\nn15075141 toilet tissue, bathroom tissue\nn01440764 tench\n"
SOLUTION = (
    b"ImageId,PredictionString\n"
    b"ILSVRC2012_val_00000002,n01440764 1 2 3 4 n01440764 5 6 7 8 \n"
    b"ILSVRC2012_val_00000001,n15075141 60 70 80 90 \n"
)
TRAIN = {f"train/{wnid}/{wnid}_{i}.JPEG": f"{wnid} {i}".encode() for wnid in WNIDS for i in (9, 10)}
VAL = {f"val/ILSVRC2012_val_0000000{i}.JPEG": f"val {i}".encode() for i in (1, 2)}
TABLES = {"LOC_val_solution.csv": SOLUTION, "LOC_synset_mapping.txt": MAPPING}
TREE = {
    **{f"ILSVRC/Data/CLS-LOC/{name}": data for name, data in (TRAIN | VAL).items()},
    "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG": b"test",
    "ILSVRC/Annotations/CLS-LOC/train/n01440764/n01440764_9.xml": b"<annotation/>",
    "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": b"<annotation/>",
    "ILSVRC/ImageSets/CLS-LOC/train_cls.txt": b"n01440764/n01440764_9 1\n",
    "LOC_train_solution.csv": SOLUTION,
    **TABLES,
}
TRAIN_ITEMS = {
    name.removeprefix("train/"): (WNIDS.index(name[6:15]), data) for name, data in TRAIN.items()
}
VAL_ITEMS = {
    "ILSVRC2012_val_00000001.JPEG": (2, b"val 1"),
    "ILSVRC2012_val_00000002.JPEG": (0, b"val 2"),
}
PLACES = ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"]


def contents(source: Source) -> dict[str, tuple[int, bytes]]:
    return {item.name: (item.label, source.read(i)) for i, item in enumerate(source.items)}


@pytest.fixture
def tree(tmp_path: Path, write_folder: Write) -> Path:
    return write_folder(tmp_path / "imagenet", TREE)


@pytest.fixture
def archive(tmp_path: Path, write_zip: Write) -> Path:
    return write_zip(tmp_path / "imagenet-object-localization-challenge.zip", TREE)


@pytest.mark.parametrize("place", [*PLACES, "ILSVRC/Data/CLS-LOC/train"])
def test_train_has_the_sorted_wnids_as_classes(tree: Path, place: str) -> None:
    source = open_source(str(tree / place))
    assert source.name == "ImageNet-train"
    assert source.classes == WNIDS
    assert contents(source) == TRAIN_ITEMS


@pytest.mark.parametrize("place", [*PLACES, "ILSVRC/Data/CLS-LOC/val"])
@pytest.mark.parametrize("split", ["val", "validation"])
def test_val_has_its_labels_from_the_table(tree: Path, place: str, split: str) -> None:
    source = open_source(str(tree / place), split=split)
    assert source.name == "ImageNet-val"
    assert source.classes == WNIDS
    assert contents(source) == VAL_ITEMS


def test_the_path_of_val_needs_no_split(tree: Path) -> None:
    source = open_source(str(tree / "ILSVRC/Data/CLS-LOC/val"))
    assert contents(source) == VAL_ITEMS


def test_the_zip_is_the_same_as_the_folder(tree: Path, archive: Path) -> None:
    for split, items in (("train", TRAIN_ITEMS), ("val", VAL_ITEMS)):
        folder, zipped = open_source(str(tree), split=split), open_source(str(archive), split=split)
        assert contents(zipped) == contents(folder) == items
        assert zipped.fingerprint == folder.fingerprint
        assert (zipped.classes, zipped.name) == (folder.classes, folder.name)
    assert contents(open_source(str(archive))) == TRAIN_ITEMS


def test_what_macos_adds_to_a_zip_does_not_count(tmp_path: Path, write_zip: Write) -> None:
    leftovers = {f"__MACOSX/{name}".replace("/n0", "/._n0"): b"" for name in TREE}
    path = write_zip(tmp_path / "imagenet.zip", leftovers | TREE)
    assert contents(open_source(str(path))) == TRAIN_ITEMS
    assert contents(open_source(str(path), split="val")) == VAL_ITEMS


def test_a_relative_path_is_understood(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "ILSVRC/Data/CLS-LOC/val")
    assert contents(open_source(".")) == VAL_ITEMS
    assert contents(open_source("..", split="val")) == VAL_ITEMS
    assert contents(open_source("../train")) == TRAIN_ITEMS


def test_a_link_to_the_images_keeps_its_place(tree: Path) -> None:
    train = tree / "ILSVRC/Data/CLS-LOC/train"
    train.rename(tree.parent / "elsewhere")
    train.symlink_to(tree.parent / "elsewhere", target_is_directory=True)
    assert contents(open_source(str(train))) == TRAIN_ITEMS


def test_only_images_in_class_folders_count(tree: Path) -> None:
    before = open_source(str(tree)).fingerprint
    train = tree / "ILSVRC/Data/CLS-LOC/train"
    for stray in ("notes.csv", "stray.JPEG", "n01440764/n01440764_9.xml", "n01440764/.x.JPEG"):
        (train / stray).write_bytes(b"")
    assert open_source(str(tree)).fingerprint == before


@pytest.mark.parametrize("beside", ["ILSVRC/Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC", "ILSVRC"])
def test_the_tables_may_lie_anywhere_above(tree: Path, beside: str) -> None:
    for table in TABLES:
        (tree / table).rename(tree / beside / table)
    assert contents(open_source(str(tree), split="val")) == VAL_ITEMS


def test_the_table_may_lie_beside_the_zip(tmp_path: Path, write_zip: Write) -> None:
    files = {name: TREE[name] for name in TREE if name not in TABLES}
    path = write_zip(tmp_path / "imagenet.zip", files)
    with pytest.raises(RepaError, match="LOC_val_solution.csv: put it beside the folder or zip"):
        open_source(str(path), split="val")
    for name, data in TABLES.items():
        (tmp_path / name).write_bytes(data)
    assert contents(open_source(str(path), split="val")) == VAL_ITEMS


def test_without_the_mapping_the_classes_are_those_of_the_table(tree: Path) -> None:
    (tree / "LOC_synset_mapping.txt").unlink()
    source = open_source(str(tree), split="val")
    assert source.classes == ["n01440764", "n15075141"]
    assert [item.label for item in source.items] == [1, 0]


def test_val_in_class_folders_needs_no_table(tree: Path) -> None:
    val = tree / "ILSVRC/Data/CLS-LOC/val"
    for wnid, image in (("n15075141", 1), ("n01440764", 2)):
        (val / wnid).mkdir()
        name = f"ILSVRC2012_val_0000000{image}.JPEG"
        (val / name).rename(val / wnid / name)
    (tree / "LOC_val_solution.csv").unlink()
    source = open_source(str(tree), split="val")
    assert source.classes == ["n01440764", "n15075141"]
    assert [item.label for item in source.items] == [0, 1]


BROKEN_TABLES = {
    "no table": ({"LOC_val_solution.csv": None}, "ImageNet's val has its labels in LOC_val_sol"),
    "other columns": ({"LOC_val_solution.csv": b"a,b\n1,2\n"}, "lacks the columns ImageId, Pre"),
    "missing cell": (
        {"LOC_val_solution.csv": SOLUTION + b"ILSVRC2012_val_00000003\n"},
        "lacks the columns",
    ),
    "empty": ({"LOC_val_solution.csv": b""}, "has no entry for ILSVRC2012_val_00000001.JPEG"),
    "no such image": (
        {"LOC_val_solution.csv": SOLUTION.replace(b"0002", b"0003")},
        "LOC_val_solution.csv has no entry for ILSVRC2012_val_00000002.JPEG",
    ),
    "no such class": (
        {"LOC_synset_mapping.txt": b"n01440764 tench\n"},
        "LOC_synset_mapping.txt has no entry for n15075141",
    ),
    "no text": ({"LOC_val_solution.csv": b"\xff\x00" * 50}, "has no entry|lacks the columns"),
}


@pytest.mark.parametrize(("tables", "message"), BROKEN_TABLES.values(), ids=BROKEN_TABLES)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_broken_table_is_one_clear_line(
    tmp_path: Path,
    write_folder: Write,
    write_zip: Write,
    kind: str,
    tables: dict[str, bytes | None],
    message: str,
) -> None:
    files = {name: data for name, data in (TREE | tables).items() if data is not None}
    write, name = (write_folder, "imagenet") if kind == "folder" else (write_zip, "imagenet.zip")
    path = write(tmp_path / name, files)
    with pytest.raises(RepaError, match=message) as error:
        open_source(str(path), split="val")
    assert "\n" not in str(error.value)


def test_splits_that_are_not_there_are_one_clear_line(tree: Path, archive: Path) -> None:
    for path in (tree, archive):
        with pytest.raises(RepaError, match="no split test in .*: ImageNet has train and val"):
            open_source(str(path), split="test")
    with pytest.raises(RepaError, match="val is of the split val, not of train"):
        open_source(str(tree / "ILSVRC/Data/CLS-LOC/val"), split="train")
    train = tree / "ILSVRC/Data/CLS-LOC/train"
    train.rename(tree / "moved")
    with pytest.raises(RepaError, match="no split train in .*imagenet: there is no .*/train"):
        open_source(str(tree))
    with pytest.raises(RepaError, match="no image in ImageNet-train"):
        open_source(str(tree / "ILSVRC/Annotations/CLS-LOC"))


@pytest.mark.parametrize("table", ["LOC_val_solution.csv", "LOC_synset_mapping.txt"])
def test_a_table_with_changed_bytes_in_a_zip_is_one_clear_line(archive: Path, table: str) -> None:
    data = archive.read_bytes()
    start = data.rindex(TREE[table])  # the first may be of train
    archive.write_bytes(data[:start] + b"?" + data[start + 1 :])
    with pytest.raises(RepaError, match=rf"^cannot read {table}: Bad CRC-32[^\n]*$"):
        open_source(str(archive), split="val")
