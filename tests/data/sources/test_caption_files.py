"""Captions beside images: .txt files and metadata.jsonl, in folders and zips."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from repa.cli import main
from repa.data import PreparedDataset
from repa.data.sources import Source, open_source
from repa.errors import RepaError

Files = dict[str, bytes]
Write = Callable[[Path, Files], Path]
WriteSource = Callable[[Files], str]
Captions = dict[str, tuple[str, ...]]
IMAGES = {"cat/1.png": b"cat one", "cat/2.jpg": b"cat two", "dog/1.png": b"dog one"}
TEXTS = {
    "cat/1.txt": b"a cat\n\n  a cat on a mat \r\n",
    "cat/2.txt": "ein Löwe".encode(),
    "dog/1.TXT": b"\xef\xbb\xbfa dog",
}
CAPTIONS: Captions = {
    "cat/1.png": ("a cat", "a cat on a mat"),
    "cat/2.jpg": ("ein Löwe",),
    "dog/1.png": ("a dog",),
}


def lines(*rows: object) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


TABLE = lines(
    {"file_name": "cat/1.png", "text": "a cat"},
    {"file_name": "dog/1.png", "caption": " a dog\n", "label": 3},
    {"file_name": "cat/2.jpg", "captions": ["ein Löwe"]},
    {"file_name": "./cat/1.png", "text": None, "caption": "a cat on a mat"},
)


@pytest.fixture(params=["folder", "zip"])
def write_source(
    request: pytest.FixtureRequest, tmp_path: Path, write_folder: Write, write_zip: Write
) -> WriteSource:
    """Writes files as a source of either kind and gives what `--source` would name."""
    if request.param == "folder":
        return lambda files: str(write_folder(tmp_path / "pictures", files))
    return lambda files: str(write_zip(tmp_path / "pictures.zip", files))


def captions(source: Source) -> Captions:
    return {item.name: item.captions for item in source.items}


def warning(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without the source's name, which has .zip or not."""
    return capsys.readouterr().err.replace("pictures.zip", "pictures")


@pytest.mark.parametrize("wrapping", ["", "all/of/it/"])
@pytest.mark.parametrize("beside", [TEXTS, {"metadata.jsonl": TABLE}], ids=["txt", "jsonl"])
def test_captions_join_the_images_and_labels_stay(
    write_source: WriteSource, wrapping: str, beside: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(write_source({wrapping + n: d for n, d in (IMAGES | beside).items()}))
    assert captions(source) == CAPTIONS
    assert source.classes == ["cat", "dog"]
    assert [item.label for item in source.items] == [0, 0, 1]
    assert [source.read(i) for i in range(3)] == list(IMAGES.values())
    assert capsys.readouterr().err == ""


def test_without_captions_all_is_as_before(
    write_source: WriteSource, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(write_source(IMAGES | {"cat/notes.txt": b"\xff", "README.txt": b"\xff"}))
    assert set(captions(source)) == IMAGES.keys() | {"cat/notes.txt"}  # is counted as broken
    assert not any(captions(source).values())
    assert capsys.readouterr().err == ""


def test_other_captions_are_another_source(tmp_path: Path, write_folder: Write) -> None:
    prints = {
        open_source(str(write_folder(tmp_path / str(i), IMAGES | files))).fingerprint
        for i, files in enumerate([{}, TEXTS, TEXTS | {"dog/1.TXT": b"a cat"}])
    }
    assert len(prints) == 3


def test_images_at_the_top_have_captions_too(write_source: WriteSource) -> None:
    files = {"1.png": b"one", "1.txt": b"first", "2.png": b"two", "2.txt": b"second"}
    source = open_source(write_source(files))
    assert captions(source) == {"1.png": ("first",), "2.png": ("second",)}
    assert len(source.classes) == 1


def test_a_dataset_json_needs_no_labels_for_captions(write_source: WriteSource) -> None:
    labels = json.dumps({"labels": [[name, 5] for name in IMAGES]}).encode()
    source = open_source(write_source(IMAGES | TEXTS | {"dataset.json": labels}))
    assert captions(source) == CAPTIONS
    assert {item.label for item in source.items} == {5}


def test_images_that_differ_in_their_ending_share_a_text(
    write_source: WriteSource, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"1.png": b"one", "1.jpg": b"other", "1.txt": b"both", "2.txt": b"gone"}
    assert captions(open_source(write_source(files))) == {"1.jpg": ("both",), "1.png": ("both",)}
    assert "1 x .txt file without an image\n" in capsys.readouterr().err


def test_every_folder_may_have_its_own_metadata(write_source: WriteSource) -> None:
    tables = {
        "cat/metadata.jsonl": lines(
            {"file_name": "1.png", "text": "a cat"}, {"file_name": "2.jpg", "text": "two"}
        ),
        "dog/metadata.jsonl": lines({"file_name": "1.png", "text": "a dog"}),
    }
    source = open_source(write_source(IMAGES | tables))
    assert captions(source) == {
        "cat/1.png": ("a cat",),
        "cat/2.jpg": ("two",),
        "dog/1.png": ("a dog",),
    }


def test_metadata_reaches_no_file_outside_its_source(
    tmp_path: Path, write_source: WriteSource, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"secret")
    names = ["../outside.png", "cat/../../outside.png", str(outside)]
    table = TABLE + b"\n" + lines(*({"file_name": name, "text": "out"} for name in names))
    source = open_source(write_source(IMAGES | {"metadata.jsonl": table}))
    assert captions(source) == CAPTIONS
    assert "2 x caption file name in metadata.jsonl without an image\n" in capsys.readouterr().err


def test_metadata_precedes_text_files(write_source: WriteSource) -> None:
    texts = dict.fromkeys(TEXTS, b"not this")
    assert captions(open_source(write_source(IMAGES | texts | {"metadata.jsonl": TABLE}))) == (
        CAPTIONS
    )


def test_metadata_without_captions_does_not_count(write_source: WriteSource) -> None:
    table = lines({"file_name": "cat/1.png", "label": 1}, {"objects": []})
    source = open_source(write_source(IMAGES | TEXTS | {"metadata.jsonl": table}))
    assert captions(source) == CAPTIONS


def test_what_text_files_lack_is_counted_in_one_warning(
    write_source: WriteSource, capsys: pytest.CaptureFixture[str]
) -> None:
    files = IMAGES | {"cat/1.txt": b"a cat", "cat/2.txt": b" \n", "cat/3.txt": b"gone"}
    source = open_source(write_source(files | {"README.txt": b"not read: \xff"}))
    assert captions(source) == {"cat/1.png": ("a cat",), "cat/2.jpg": (), "dog/1.png": ()}
    assert warning(capsys) == (
        "warning: captions of pictures: 2 x .txt file without an image, "
        "2 x image without a caption\n"
    )


def test_what_metadata_lacks_is_counted_in_one_warning(
    write_source: WriteSource, capsys: pytest.CaptureFixture[str]
) -> None:
    table = lines(
        {"file_name": "cat/1.png", "captions": ["a cat", "", " "]},
        {"file_name": "cat/2.jpg", "text": ""},
        {"file_name": "gone.png", "text": "gone"},
    )
    source = open_source(write_source(IMAGES | {"metadata.jsonl": table}))
    assert captions(source) == {"cat/1.png": ("a cat",), "cat/2.jpg": (), "dog/1.png": ()}
    assert warning(capsys) == (
        "warning: captions of pictures: 3 x empty caption, 1 x caption file name in "
        "metadata.jsonl without an image, 2 x image without a caption\n"
    )


def test_they_reach_the_prepared_dataset(
    write_source: WriteSource, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    images = {name: picture(i, (40, 40), "JPEG") for i, name in enumerate(IMAGES)}
    source, dest = write_source(images | TEXTS), tmp_path / "out"
    arguments = [f"--source={source}", f"--dest={dest}", "--autoencoder=pixel", "--resolution=16"]
    assert main(["prepare", *arguments, "--num-workers=2", "--device=cpu"]) == 0
    dataset = PreparedDataset(dest)
    assert dataset.manifest.num_skipped == 0
    assert [dataset.captions(i) for i in range(3)] == [list(c) for c in CAPTIONS.values()]


def test_what_is_no_unicode_can_be_written(write_source: WriteSource) -> None:
    table = b'{"file_name": "cat/1.png", "text": "bad \\ud800 x"}'
    source = open_source(write_source(IMAGES | {"metadata.jsonl": table}))
    assert source.items[0].captions[0].encode() == b"bad \\ud800 x"


FORM = r"line 2 of metadata.jsonl in pictures(.zip)? is not of the form"
BROKEN = {
    "text not UTF-8": ({"cat/1.txt": b"a caf\xe9"}, r"^cat/1.txt in pic\S* is not UTF-8 \(byte 5"),
    "text too long": ({"cat/1.txt": b"a" * 1001}, r"^cannot read cat/1.txt in .*: 1001 bytes; "),
    "metadata not UTF-8": ({"metadata.jsonl": b"\xff"}, "^metadata.jsonl in .* is not UTF-8"),
    "metadata too long": ({"metadata.jsonl": b" " * 2001}, "^cannot read metadata.jsonl in .*2001"),
    "no JSON": ({"metadata.jsonl": b"\n{"}, FORM),
    "nested without end": ({"metadata.jsonl": b"\n" + b"[" * 1900}, FORM),
    "no object": ({"metadata.jsonl": b"{}\n[]"}, FORM),
    "no name": ({"metadata.jsonl": b'{}\n{"text": "a"}'}, FORM),
    "name a number": ({"metadata.jsonl": b'{}\n{"file_name": 1, "text": "a"}'}, FORM),
    "text a number": ({"metadata.jsonl": b'{}\n{"file_name": "cat/1.png", "text": 1}'}, FORM),
    "list of numbers": (
        {"metadata.jsonl": b'{}\n{"file_name": "cat/1.png", "captions": [1]}'},
        FORM,
    ),
    "none of the images": (
        {"metadata.jsonl": lines({"file_name": "1.png", "text": "a"})},
        r"^metadata.jsonl in pictures(.zip)? names none of the images \(first: 1.png\); expected",
    ),
}


@pytest.mark.parametrize(("files", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_clear_line(
    write_source: WriteSource, files: Files, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repa.data.sources.captions.MAX_TEXT_FILE", 1000)
    monkeypatch.setattr("repa.data.sources.captions.MAX_METADATA_FILE", 2000)
    with pytest.raises(RepaError, match=message) as error:
        open_source(write_source(IMAGES | files))
    assert "\n" not in str(error.value)


def test_a_text_that_cannot_be_read_is_one_clear_line(tmp_path: Path, write_folder: Write) -> None:
    folder = write_folder(tmp_path / "pictures", IMAGES)
    (folder / "cat" / "1.txt").symlink_to("nowhere")
    with pytest.raises(RepaError, match=r"^cannot read cat/1.txt in pictures: "):
        open_source(str(folder))
