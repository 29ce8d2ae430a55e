import json
import multiprocessing
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from repa.data.sources import Source, open_source
from repa.errors import RepaError

Write = Callable[[Path, dict[str, bytes]], Path]
FILES = {"dog/2.png": b"dog two", "cat/9.png": b"cat nine", "cat/deep/1.png": b"cat one"}


def contents(source: Source) -> dict[str, tuple[int, bytes]]:
    return {item.name: (item.label, source.read(i)) for i, item in enumerate(source.items)}


def labeled(*pairs: tuple[str, object]) -> bytes:
    return json.dumps({"labels": pairs}).encode()


@pytest.fixture(params=["folder", "zip"])
def write_source(
    request: pytest.FixtureRequest, tmp_path: Path, write_folder: Write, write_zip: Write
) -> Callable[[dict[str, bytes]], str]:
    """Writes files as a source of either kind and gives what `--source` would name."""
    if request.param == "folder":
        return lambda files: str(write_folder(tmp_path / "pictures", files))
    return lambda files: str(write_zip(tmp_path / "pictures.zip", files))


def test_folder_and_zip_of_the_same_files_are_the_same(
    tmp_path: Path, write_folder: Write, write_zip: Write
) -> None:
    folder = open_source(str(write_folder(tmp_path / "pictures", FILES)))
    archive = open_source(str(write_zip(tmp_path / "pictures.zip", FILES)))
    assert folder.items == archive.items
    assert folder.classes == archive.classes == ["cat", "dog"]
    assert folder.fingerprint == archive.fingerprint
    assert contents(folder) == contents(archive)
    assert contents(folder) == {
        "cat/9.png": (0, b"cat nine"),
        "cat/deep/1.png": (0, b"cat one"),
        "dog/2.png": (1, b"dog two"),
    }
    assert (folder.name, archive.name) == ("pictures", "pictures.zip")


def test_the_order_does_not_depend_on_the_order_of_writing(
    tmp_path: Path, write_folder: Write
) -> None:
    one = open_source(str(write_folder(tmp_path / "one", FILES)))
    backwards = dict(reversed(FILES.items()))
    other = open_source(str(write_folder(tmp_path / "other", backwards)))
    assert one.items == other.items


def test_another_listing_has_another_fingerprint(tmp_path: Path, write_folder: Write) -> None:
    prints = [
        open_source(str(write_folder(tmp_path / str(i), files))).fingerprint
        for i, files in enumerate(
            [
                FILES,
                FILES | {"cat/3.png": b""},
                FILES | {"dataset.json": labeled(*((name, 0) for name in FILES))},
            ]
        )
    ]
    assert len(set(prints)) == 3


def test_hidden_files_and_leftovers_of_systems_are_no_items(
    write_source: Callable[[dict[str, bytes]], str],
) -> None:
    leftovers = {
        ".DS_Store": b"",
        "cat/.hidden.png": b"",
        ".git/x.png": b"",
        "__MACOSX/cat/9.png": b"",
    }
    source = open_source(write_source(FILES | leftovers))
    assert set(contents(source)) == set(FILES)
    assert source.classes == ["cat", "dog"]


def test_images_at_the_top_share_the_last_class(
    write_source: Callable[[dict[str, bytes]], str],
) -> None:
    source = open_source(write_source(FILES | {"1.png": b"one", "0.png": b"zero"}))
    assert len(source.classes) == 3
    labels = {name: label for name, (label, _) in contents(source).items()}
    assert labels["cat/9.png"] == 0
    assert labels["dog/2.png"] == 1
    assert labels["1.png"] == labels["0.png"] == 2


def test_images_at_the_top_alone_are_one_class(
    write_source: Callable[[dict[str, bytes]], str],
) -> None:
    source = open_source(write_source({"1.png": b"", "0.png": b""}))
    assert [(item.name, item.label) for item in source.items] == [("0.png", 0), ("1.png", 0)]
    assert len(source.classes) == 1


def test_labels_come_from_dataset_json(write_source: Callable[[dict[str, bytes]], str]) -> None:
    names = labeled(("cat/deep/1.png", 3), ("dog/2.png", 0), ("cat/9.png", 3), ("gone.png", 5))
    source = open_source(write_source(FILES | {"dataset.json": names}))
    assert {name: label for name, (label, _) in contents(source).items()} == {
        "cat/9.png": 3,
        "cat/deep/1.png": 3,
        "dog/2.png": 0,
    }
    assert source.classes == ["0", "1", "2", "3", "4", "5"]


def test_only_a_dataset_json_at_the_top_counts(
    write_source: Callable[[dict[str, bytes]], str],
) -> None:
    source = open_source(write_source(FILES | {"cat/dataset.json": b"{}"}))
    assert source.classes == ["cat", "dog"]


BAD_LABELS = {
    "unlabeled file": (labeled(("dog/2.png", 0), ("cat/9.png", 1)), "no label for cat/deep/1.png"),
    "negative": (labeled(*((name, -1) for name in FILES)), "class -1"),
    "absurd": (labeled(*((name, 10**12) for name in FILES)), "class 1000000000000"),
    "fraction": (labeled(*((name, 1.5) for name in FILES)), "not of the form"),
    "text": (labeled(*((name, "1") for name in FILES)), "not of the form"),
    "truth value": (labeled(*((name, True) for name in FILES)), "not of the form"),
    "infinite": (labeled(("dog/2.png", float("inf"))), "not of the form"),
    "one-hot": (labeled(("dog/2.png", [0, 1])), "not of the form"),
    "three in a row": (b'{"labels": [["dog/2.png", 1, 2]]}', "not of the form"),
    "no labels": (b'{"labels": null}', "not of the form"),
    "no key": (b"{}", "not of the form"),
    "a list": (b"[]", "not of the form"),
    "empty": (b"", "not of the form"),
    "not JSON": (b"{", "not of the form"),
    "not UTF-8": (b'{"labels": [["\xff", 0]]}', "not of the form"),
    "nested without end": (b"[" * 100_000, "not of the form"),
}


@pytest.mark.parametrize(("data", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_a_bad_dataset_json_is_one_clear_line(
    write_source: Callable[[dict[str, bytes]], str], data: bytes, message: str
) -> None:
    with pytest.raises(RepaError, match=f"^dataset.json in pictures.*{message}") as error:
        open_source(write_source(FILES | {"dataset.json": data}))
    assert "\n" not in str(error.value)


def test_a_damaged_dataset_json_in_a_zip_is_one_clear_line(
    tmp_path: Path, write_zip: Write
) -> None:
    path = write_zip(tmp_path / "pictures.zip", FILES | {"dataset.json": labeled(("dog/2.png", 0))})
    path.write_bytes(path.read_bytes().replace(b'{"labels"', b'{"lapels"', 1))  # not its checksum
    with pytest.raises(RepaError, match="cannot read dataset.json in pictures.zip"):
        open_source(str(path))


def test_no_source_of_that_name() -> None:
    with pytest.raises(
        RepaError, match="^no such source: nowhere; give a folder, a zip, .* or twemoji, twem"
    ):
        open_source("nowhere")


def test_a_file_that_is_no_zip(tmp_path: Path) -> None:
    path = tmp_path / "pictures.rar"
    path.write_bytes(b"no zip")
    with pytest.raises(RepaError, match="neither a folder nor a readable zip"):
        open_source(str(path))


def test_every_broken_zip_is_one_clear_line(tmp_path: Path, write_zip: Write) -> None:
    path = write_zip(tmp_path / "whole.zip", FILES)
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    version = bytearray(data)
    version[directory + 6] = 200  # needs a version of zip that does not exist
    variants = [data[:length] for length in range(0, len(data), 7)]
    variants += [data.replace(b"PK\x01\x02", b"PK\x01\x03"), bytes(version)]
    for number, variant in enumerate(variants):
        broken = tmp_path / f"broken{number}.zip"
        broken.write_bytes(variant)
        with pytest.raises(RepaError) as error:
            open_source(str(broken))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("files", [{}, {".DS_Store": b""}])
def test_an_empty_source_is_an_error(
    write_source: Callable[[dict[str, bytes]], str], tmp_path: Path, files: dict[str, bytes]
) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(RepaError, match="no image in pictures"):
        open_source(write_source(files))


def test_class_folders_may_be_links(tmp_path: Path, write_folder: Write) -> None:
    write_folder(tmp_path / "elsewhere", {"9.png": b"cat nine"})
    folder = write_folder(tmp_path / "pictures", {"dog/2.png": b"dog two"})
    (folder / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert contents(open_source(str(folder))) == {
        "cat/9.png": (0, b"cat nine"),
        "dog/2.png": (1, b"dog two"),
    }


def test_links_in_a_circle_are_an_error(tmp_path: Path, write_folder: Write) -> None:
    folder = write_folder(tmp_path / "pictures", FILES)
    (folder / "again").symlink_to(folder, target_is_directory=True)
    with pytest.raises(RepaError, match="pictures/again is a link to a folder that it lies in"):
        open_source(str(folder))


def test_a_name_in_a_zip_twice_is_one_item(tmp_path: Path, write_zip: Write) -> None:
    path = write_zip(tmp_path / "pictures.zip", FILES)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("dog/2.png", b"dog two, revised")
    assert contents(open_source(str(path)))["dog/2.png"] == (1, b"dog two, revised")
    assert len(open_source(str(path)).items) == 3


def test_names_that_are_not_unicode_are_read_and_shown(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/\xff.png", "wb") as file:
        file.write(b"bytes")
    source = open_source(str(tmp_path))
    assert source.classes == ["caf\\udce9"]
    assert source.read(0) == b"bytes"
    assert re.fullmatch("[0-9a-f]{64}", source.fingerprint)


def test_a_source_can_be_sent_to_another_process(
    write_source: Callable[[dict[str, bytes]], str],
) -> None:
    source = open_source(write_source(FILES))
    source.read(0)
    assert contents(pickle.loads(pickle.dumps(source))) == contents(source)


def test_a_zip_is_read_right_by_several_processes_at_once(tmp_path: Path, write_zip: Write) -> None:
    files = {f"{i % 7}/{i:03d}.png": bytes([i % 256]) * (50 * i + 1) for i in range(300)}
    source = open_source(str(write_zip(tmp_path / "pictures.zip", files)))
    source.read(5)  # opened before the processes start

    class Bytes:
        def __len__(self) -> int:
            return len(source.items)

        def __getitem__(self, index: int) -> tuple[str, bytes]:
            return source.items[index].name, source.read(index)

    loader = DataLoader(Bytes(), batch_size=10, num_workers=2, collate_fn=list)
    assert dict(item for batch in loader for item in batch) == files


def test_a_forked_process_does_not_move_the_offset_of_the_zip(
    tmp_path: Path, write_zip: Write
) -> None:
    path = write_zip(tmp_path / "pictures.zip", FILES)
    source = open_source(str(path))
    source.read(0)

    def offset() -> str:
        [number] = [
            fd.name for fd in Path("/proc/self/fd").iterdir() if os.path.realpath(fd) == str(path)
        ]
        return Path("/proc/self/fdinfo", number).read_text().splitlines()[0]

    before = offset()
    process = multiprocessing.get_context("fork").Process(target=source.read, args=(2,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert offset() == before


def test_a_zip_keeps_no_more_than_one_file_open(tmp_path: Path, write_zip: Write) -> None:
    source = open_source(str(write_zip(tmp_path / "pictures.zip", FILES)))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        source.read(0)
    assert len(os.listdir("/proc/self/fd")) == before


WRAPPED = {
    "one folder": ("cifar10/", FILES, ["cat", "dog"]),
    "two folders": ("cifar10/train/", FILES, ["cat", "dog"]),
    "stray image beside the classes": ("all/", FILES | {"1.png": b""}, ["cat", "dog", ""]),
    "one class": ("", {"cat/1.png": b"", "cat/2.png": b""}, ["cat"]),
    "one class, wrapped": ("a/b/", {"cat/1.png": b"", "cat/2.png": b""}, ["cat"]),
    "one image": ("cifar10/", {"cat/1.png": b""}, ["cat"]),
    "labels in a file": (
        "all/",
        {"1.png": b"", "2.png": b"", "dataset.json": labeled(("1.png", 0), ("2.png", 2))},
        ["0", "1", "2"],
    ),
    "folders whose names begin alike": ("", {"cat/1.png": b"", "category/1.png": b""}, None),
}


@pytest.mark.parametrize(("wrapping", "files", "classes"), WRAPPED.values(), ids=WRAPPED)
def test_folders_around_everything_are_no_classes(
    tmp_path: Path,
    write_source: Callable[[dict[str, bytes]], str],
    wrapping: str,
    files: dict[str, bytes],
    classes: list[str] | None,
) -> None:
    system = {"__MACOSX/x.png": b"", ".DS_Store": b""}
    source = open_source(write_source({wrapping + name: files[name] for name in files} | system))
    assert source.classes == (classes or ["cat", "category"])
    if "one class" not in source.name and len(source.classes) > 1:
        assert set(contents(source)) == files.keys() - {"dataset.json"}
    for name, (_, data) in contents(source).items():
        assert files[name if name in files else f"cat/{name}"] == data


STRAY = ["README.md", "cifar10/LICENSE", "aaa_meta/list.csv", "cifar10/zzz/notes.txt"]


@pytest.mark.parametrize("stray", STRAY)
def test_other_files_neither_wrap_nor_make_classes(
    write_source: Callable[[dict[str, bytes]], str], stray: str
) -> None:
    files = {f"cifar10/train/{name}": data for name, data in FILES.items()}
    source = open_source(write_source(files | {stray: b"text"}))
    assert source.classes == ["cat", "dog"]
    assert set(contents(source)) == FILES.keys()


def test_a_file_among_images_stays_to_be_counted(
    write_source: Callable[[dict[str, bytes]], str],
) -> None:
    source = open_source(write_source(FILES | {"cat/notes.txt": b"text"}))
    assert set(contents(source)) == FILES.keys() | {"cat/notes.txt"}


def test_pipes_and_huge_files_are_not_read(tmp_path: Path, write_folder: Write) -> None:
    folder = write_folder(tmp_path / "pictures", FILES)
    os.mkfifo(folder / "cat" / "pipe.png")
    with open(folder / "cat" / "huge.png", "wb") as file:
        file.truncate(2 << 30)  # a hole, which takes no disk
    source = open_source(str(folder))
    for index, item in enumerate(source.items):
        if item.name in ("cat/pipe.png", "cat/huge.png"):
            with pytest.raises(ValueError, match=r"not a regular file|2147483648 bytes"):
                source.read(index)


def test_links_that_lead_to_each_other_are_refused(tmp_path: Path, write_folder: Write) -> None:
    folder = write_folder(tmp_path / "pictures", FILES)
    (folder / "cat" / "other").symlink_to("../dog")
    open_source(str(folder))  # a link to a folder elsewhere is followed
    (folder / "dog" / "other").symlink_to("../cat")
    with pytest.raises(RepaError, match="is a link to a folder that it lies in"):
        open_source(str(folder))


def test_wrapping_does_not_change_the_fingerprint(
    tmp_path: Path, write_folder: Write, write_zip: Write
) -> None:
    plain = open_source(str(write_folder(tmp_path / "plain", FILES)))
    wrapped = open_source(
        str(write_zip(tmp_path / "x.zip", {f"a/b/{name}": FILES[name] for name in FILES}))
    )
    assert wrapped.fingerprint == plain.fingerprint
    assert contents(wrapped) == contents(plain)


def test_a_huge_dataset_json_is_not_read(
    write_source: Callable[[dict[str, bytes]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repa.data.sources.files.MAX_LABEL_FILE", 1000)
    with pytest.raises(RepaError, match="cannot read dataset.json.*1001 bytes; expected at most"):
        open_source(write_source(FILES | {"dataset.json": b" " * 1001}))


def test_a_zip_bomb_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(1001))
        archive.writestr("good.png", bytes(1000))
    monkeypatch.setattr("repa.data.sources.files.MAX_IMAGE_FILE", 1000)
    source = open_source(str(path))
    with pytest.raises(ValueError, match="1001 bytes when unpacked"):
        source.read(0)
    assert source.read(1) == bytes(1000)


@pytest.mark.parametrize("name", ["../secret.png", "cat/../../secret.png", "/secret.png"])
def test_names_that_climb_are_refused(tmp_path: Path, write_zip: Write, name: str) -> None:
    files = {"cat/1.png": b"inside", name: b"inside"}
    path = write_zip(tmp_path / "x.zip", files)
    with pytest.raises(RepaError, match=f"{path} has the member {name}, which leads out of it"):
        open_source(str(path))
    assert os.listdir(tmp_path) == ["x.zip"]


def test_a_forked_process_does_not_list_the_zip_again(
    tmp_path: Path, write_zip: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(write_zip(tmp_path / "pictures.zip", FILES)))

    def read() -> None:
        monkeypatch.setattr(zipfile, "ZipFile", None)
        assert contents(source)["dog/2.png"] == (1, b"dog two")

    process = multiprocessing.get_context("fork").Process(target=read)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_splits_and_streams_are_not_for_folders(
    write_source: Callable[[dict[str, bytes]], str],
) -> None:
    path = write_source(FILES)
    with pytest.raises(RepaError, match="has no splits; leave out --split"):
        open_source(path, split="train")
    with pytest.raises(RepaError, match="cannot be streamed; only Hugging Face datasets can"):
        open_source(path, streaming=True)
