"""MS-COCO written by hand: Twemoji pictures as JPEG, their names as captions."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repa.cli import main
from repa.data import PreparedDataset
from repa.data.images import decode_image
from repa.data.sources import Source, open_source
from repa.data.sources.coco import is_coco
from repa.errors import RepaError

Files = dict[str, bytes]
Write = Callable[[Path, Files], Path]
IDS = {"train": [9, 25, 30, 571], "val": [42, 73]}


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """Six Twemoji pictures as JPEG files."""
    emoji = open_source("twemoji")
    assert isinstance(emoji, Source)
    found = []
    for index in range(6):
        buffer = io.BytesIO()
        decode_image(emoji.read(100 * index)).save(buffer, "JPEG")
        found.append(buffer.getvalue())
    return found


def file_name(part: str, image: int) -> str:
    prefix = f"COCO_{part}_" if part.endswith("2014") else ""  # as in 2017
    return f"{prefix}{image:012d}.jpg"


def annotations(part: str) -> dict[str, Any]:
    """Two captions an image, images and annotations in no order, as in the real files."""
    ids = IDS[part[:-4]]
    images = [{"id": i, "file_name": file_name(part, i), "height": 72} for i in reversed(ids)]
    captions = [
        {"id": 10 * i + number, "image_id": i, "caption": f"{word} picture {i}\n"}
        for number, word in enumerate(["Second", "A"])
        for i in ids
    ]
    return {"info": {"year": 2014}, "images": images, "annotations": captions}


def coco(pictures: list[bytes], year: str = "2014", **changes: Any) -> Files:
    """The files of both parts; `changes` are what to enter into train's annotations."""
    files = {}
    for part, first in ((f"train{year}", 0), (f"val{year}", 4)):
        content = annotations(part) | (changes if part.startswith("train") else {})
        files[f"annotations/captions_{part}.json"] = json.dumps(content).encode()
        for number, image in enumerate(IDS[part[:-4]], first):
            files[f"{part}/{file_name(part, image)}"] = pictures[number]
    return files


def write_zips(root: Path, files: Files, write_zip: Write) -> Path:
    """The files as they are downloaded: a zip for each part, and one with annotations."""
    root.mkdir()
    for folder in sorted({name.split("/")[0] for name in files}):
        inside = {name: data for name, data in files.items() if name.startswith(folder)}
        year = next(iter(files))[-9:-5]
        name = f"annotations_trainval{year}" if folder == "annotations" else folder
        write_zip(root / f"{name}.zip", {f"{folder}/": b""} | inside)
    return root


def contents(source: Source) -> list[tuple[str, int, tuple[str, ...], bytes]]:
    return [(i.name, i.label, i.captions, source.read(n)) for n, i in enumerate(source.items)]


def expected(part: str, pictures: list[bytes]) -> list[tuple[str, int, tuple[str, ...], bytes]]:
    return [
        (file_name(part, i), 0, (f"Second picture {i}", f"A picture {i}"), data)
        for i, data in zip(IDS[part[:-4]], pictures, strict=True)
    ]


@pytest.mark.parametrize("year", ["2014", "2017"])
@pytest.mark.parametrize("kind", ["folders", "zips"])
def test_each_image_has_all_its_captions_in_their_order(
    tmp_path: Path,
    write_folder: Write,
    write_zip: Write,
    pictures: list[bytes],
    kind: str,
    year: str,
) -> None:
    files, root = coco(pictures, year), tmp_path / "coco"
    write_folder(root, files) if kind == "folders" else write_zips(root, files, write_zip)
    train = open_source(str(root))
    assert (train.name, train.classes) == (f"MS-COCO-train{year}", ["image"])
    assert contents(train) == expected(f"train{year}", pictures[:4])
    for split in ("val", "validation", f"val{year}"):
        val = open_source(str(root), split=split)
        assert contents(val) == expected(f"val{year}", pictures[4:])
    assert contents(pickle.loads(pickle.dumps(train))) == contents(train)


def test_folders_and_zips_are_the_same_source(
    tmp_path: Path, write_folder: Write, write_zip: Write, pictures: list[bytes]
) -> None:
    folder = write_folder(tmp_path / "folder", coco(pictures))
    zips = write_zips(tmp_path / "zips", coco(pictures), write_zip)
    assert open_source(str(folder)).fingerprint == open_source(str(zips)).fingerprint


def test_images_may_lie_in_a_folder_of_their_own(
    tmp_path: Path, write_folder: Write, pictures: list[bytes]
) -> None:
    files = {
        name if name.startswith("annotations") else f"images/{name}": data
        for name, data in coco(pictures).items()
    }
    source = open_source(str(write_folder(tmp_path, files)))
    assert contents(source) == expected("train2014", pictures[:4])


def test_it_is_prepared_with_its_captions(
    tmp_path: Path, write_folder: Write, pictures: list[bytes]
) -> None:
    root, dest = write_folder(tmp_path / "coco", coco(pictures)), tmp_path / "out"
    arguments = [f"--source={root}", f"--dest={dest}", "--split=val", "--autoencoder=pixel"]
    assert main(["prepare", *arguments, "--resolution=32", "--num-workers=0", "--device=cpu"]) == 0
    dataset = PreparedDataset(dest)
    assert (len(dataset), dataset.manifest.has_captions) == (2, True)
    assert [dataset.captions(i) for i in range(2)] == [
        ["Second picture 42", "A picture 42"],
        ["Second picture 73", "A picture 73"],
    ]


def test_two_years_are_told_apart_by_name(
    tmp_path: Path, write_folder: Write, pictures: list[bytes]
) -> None:
    write_folder(tmp_path, coco(pictures) | coco(pictures, "2017"))
    with pytest.raises(RepaError, match="has train2014 and train2017: name one with --split"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path), split="train2017").name == "MS-COCO-train2017"


def test_of_two_years_annotations_the_one_with_images_counts(
    tmp_path: Path, write_folder: Write, pictures: list[bytes]
) -> None:
    other = {n: d for n, d in coco(pictures, "2017").items() if n.startswith("annotations")}
    write_folder(tmp_path, coco(pictures) | other)
    assert open_source(str(tmp_path)).name == "MS-COCO-train2014"


def test_parts_that_are_not_there_are_one_clear_line(
    tmp_path: Path, write_folder: Write, pictures: list[bytes]
) -> None:
    files = {n: d for n, d in coco(pictures).items() if "captions_val" not in n}
    root = write_folder(tmp_path, files)
    for split in ("val", "test", "val2014"):
        with pytest.raises(RepaError, match=f"^no split {split} in .*captions of train2014$"):
            open_source(str(root), split=split)
    (root / "train2014").rename(root / "elsewhere")
    with pytest.raises(RepaError, match=r"^no images of train2014 in .*train2014/ or train2014.z"):
        open_source(str(root))


def test_other_folders_are_not_coco(tmp_path: Path, write_folder: Write) -> None:
    write_folder(tmp_path, {"annotations/instances_train2014.json": b"{}", "train2014/1.jpg": b""})
    assert not is_coco(tmp_path)
    assert not is_coco(tmp_path / "nowhere")


def test_empty_captions_are_dropped_and_counted(
    tmp_path: Path,
    write_folder: Write,
    pictures: list[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    captions = annotations("train2014")["annotations"]
    captions += [{"image_id": 9, "caption": text} for text in ("", " \n")]
    write_folder(tmp_path, coco(pictures, annotations=captions))
    assert contents(open_source(str(tmp_path))) == expected("train2014", pictures[:4])
    warning = "warning: captions of MS-COCO-train2014: 2 x empty caption\n"
    assert capsys.readouterr().err == warning


TRAIN = annotations("train2014")
BROKEN = {
    "no caption": (
        {"annotations": [a for a in TRAIN["annotations"] if a["image_id"] not in (25, 571)]},
        r"captions_train2014.json has no caption for images of train2014: 2, the first is "
        r"COCO_train2014_000000000025.jpg",
    ),
    "only an empty caption": (
        {
            "annotations": [a for a in TRAIN["annotations"] if a["image_id"] != 25]
            + [{"image_id": 25, "caption": " "}]
        },
        r"no caption for images of train2014: 1, the first is COCO_train2014_000000000025.jpg",
    ),
    "image not listed": (
        {
            "images": TRAIN["images"][:-1],
            "annotations": [a for a in TRAIN["annotations"] if a["image_id"] != 9],
        },
        r"no caption for images of train2014: 1, the first is COCO_train2014_000000000009.jpg",
    ),
    "image not there": (
        {"images": [*TRAIN["images"], {"id": 1, "file_name": "gone.jpg"}]},
        "train2014 lacks images that captions_train2014.json has: 1, the first is gone.jpg",
    ),
    "unknown image": (
        {"annotations": [*TRAIN["annotations"], {"image_id": 10, "caption": "a"}]},
        "captions_train2014.json in .* has captions of unknown image ids: 1, the first is 10",
    ),
    "caption no text": ({"annotations": [{"image_id": 9, "caption": 5}]}, "is not of the form"),
    "caption null": (
        {"annotations": [{"image_id": 9, "caption": None}]},
        r"is not of the form .* \(None is no str\); unpack or download it again",
    ),
    "caption missing": ({"annotations": [{"image_id": 9}]}, "is not of the form"),
    "id no number": ({"annotations": [{"image_id": "9", "caption": "a"}]}, "is not of the form"),
    "no list": ({"images": 3}, "is not of the form"),
    "an image twice": ({"images": TRAIN["images"] * 2}, "not of the form .*, each image once"),
    "a file of two images": (
        {"images": [*TRAIN["images"], TRAIN["images"][0] | {"id": 1}]},
        "each image once",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("kind", ["folders", "zips"])
def test_annotations_that_do_not_fit_are_one_clear_line(
    tmp_path: Path,
    write_folder: Write,
    write_zip: Write,
    pictures: list[bytes],
    kind: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    files, root = coco(pictures, **changes), tmp_path / "coco"
    write_folder(root, files) if kind == "folders" else write_zips(root, files, write_zip)
    with pytest.raises(RepaError, match=rf"^[^\n]*{message}[^\n]*$"):
        open_source(str(root))
    open_source(str(root), split="val")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not of the form"),
        (b"[]", "is not of the form"),
        (
            b'{"images": [',
            r"is not of the form .* \(Expecting value: line 1 column 13 \(char 12\)\)",
        ),
        (b"[" * 100_000, "is not of the form"),
        (b'{"images": [], "x": "\xff"}', r"is not UTF-8 \(byte 21\); save it in that encoding"),
    ],
)
def test_broken_annotations_are_one_clear_line(
    tmp_path: Path, write_folder: Write, pictures: list[bytes], data: bytes, message: str
) -> None:
    write_folder(tmp_path, coco(pictures) | {"annotations/captions_train2014.json": data})
    with pytest.raises(RepaError, match=rf"^annotations/captions_train2014.json in .*{message}"):
        open_source(str(tmp_path))


def test_huge_annotations_are_not_read(
    tmp_path: Path, write_folder: Write, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repa.data.sources.coco.MAX_ANNOTATIONS", 100)
    write_folder(tmp_path, coco(pictures))
    with pytest.raises(RepaError, match="^cannot read annotations/.* bytes; expected at most 100"):
        open_source(str(tmp_path))


def test_a_zip_without_the_annotations_is_one_clear_line(
    tmp_path: Path, write_zip: Write, pictures: list[bytes]
) -> None:
    root = write_zips(tmp_path / "coco", coco(pictures), write_zip)
    write_zip(root / "annotations_trainval2014.zip", {"annotations/instances.json": b"{}"})
    with pytest.raises(RepaError, match=r"^cannot read annotations/captions_train2014.json in "):
        open_source(str(root))
    (root / "annotations_trainval2014.zip").write_bytes(b"PK no zip")
    with pytest.raises(RepaError, match=r"^cannot read .*annotations_trainval2014.zip"):
        open_source(str(root))
