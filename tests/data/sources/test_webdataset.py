import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from repa.data.sources import Source, open_source
from repa.data.sources.tars import expand_braces
from repa.errors import RepaError

Write = Callable[[Path, dict[str, bytes]], Path]

SAMPLES = {
    "0001.jpg": b"image one",
    "0001.cls": b"2\n",
    "0001.txt": b" a cat\non a mat \n",
    "0002.cls": b"0",
    "0002.png": b"image two",
    "0002.txt": "ein Löwe".encode(),
}
PLAIN = {"cat/1.jpg": b"cat one", "cat/2.jpg": b"cat two", "dog/1.png": b"dog one"}


def contents(source: Source) -> dict[str, tuple[int, bytes]]:
    return {item.name: (item.label, source.read(i)) for i, item in enumerate(source.items)}


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture
def write(tmp_path: Path, write_tar: Write) -> Callable[..., Source]:
    """Writes `x.tar` and opens it."""
    return lambda files: open_source(str(write_tar(tmp_path / "x.tar", files)))


def test_a_sample_has_image_class_and_caption(write: Callable[..., Source]) -> None:
    source = write(SAMPLES)
    assert source.name == "x.tar"
    assert source.classes == ["0", "1", "2"]
    assert [item.name for item in source.items] == ["x/0001", "x/0002"]
    assert [item.label for item in source.items] == [2, 0]
    assert [item.captions for item in source.items] == [("a cat\non a mat",), ("ein Löwe",)]
    assert [source.read(0), source.read(1)] == [b"image one", b"image two"]


def test_classes_may_be_names(write: Callable[..., Source]) -> None:
    source = write(SAMPLES | {"0001.cls": b"tench", "0002.cls": b"goldfish"})
    assert source.classes == ["goldfish", "tench"]
    assert [item.label for item in source.items] == [1, 0]


@pytest.mark.parametrize(
    ("info", "label", "captions"),
    [
        ({"label": 1, "caption": "one"}, 1, ("one",)),
        ({"label": 1, "caption": ["one", "two"], "width": 3}, 1, ("one", "two")),
        ({"label": 1, "caption": None}, 1, ()),
        ({"label": 1}, 1, ()),
        ({"label": "b"}, 0, ()),
    ],
)
def test_labels_and_captions_may_be_in_json(
    write: Callable[..., Source], info: dict, label: int, captions: tuple[str, ...]
) -> None:
    [item] = write({"a.jpg": b"", "a.json": as_json(info)}).items
    assert (item.label, item.captions) == (label, captions)


def test_files_of_their_own_precede_json(write: Callable[..., Source]) -> None:
    info = as_json({"label": 7, "caption": "other"})
    [item] = write({"a.jpg": b"", "a.json": info, "a.cls": b"3", "a.txt": b"mine"}).items
    assert (item.label, item.captions) == (3, ("mine",))


def test_json_without_a_label_is_no_label(write: Callable[..., Source]) -> None:
    files = {name.split(".")[0] + ".json": as_json({"caption": "x"}) for name in PLAIN}
    source = write(PLAIN | files)
    assert source.classes == ["cat", "dog"]
    assert all(item.captions == ("x",) for item in source.items)


@pytest.mark.parametrize("wrapping", ["", "./", "all/", "./all/of/it/"])
def test_without_classes_folders_are_the_labels(
    write: Callable[..., Source], wrapping: str
) -> None:
    source = write({wrapping + name: data for name, data in PLAIN.items()})
    assert source.classes == ["cat", "dog"]
    assert sorted(contents(source).values()) == [(0, b"cat one"), (0, b"cat two"), (1, b"dog one")]


def test_tars_whose_names_differ_in_their_ending_alone(tmp_path: Path, write_tar: Write) -> None:
    folder = tmp_path / "twins"
    folder.mkdir()
    write_tar(folder / "x.TAR", {"0.png": b"one"})
    write_tar(folder / "x.tar", {"0.png": b"other"})
    source = open_source(str(folder))
    assert [source.read(i) for i in range(2)] == [b"one", b"other"]


def test_a_caption_that_is_no_unicode_can_be_written(write: Callable[..., Source]) -> None:
    source = write({"1.jpg": b"", "1.json": b'{"caption": "bad \\ud800 x"}'})
    assert source.items[0].captions[0].encode() == b"bad \\ud800 x"


def test_images_without_captions_are_counted_where_others_have_one(
    write: Callable[..., Source], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not any(item.captions for item in write(PLAIN).items)
    assert capsys.readouterr().err == ""
    more = {"cat/1.txt": b" ", "cat/2.json": b'{"caption": ["", " a cat ", "\\n"]}'}
    source = write(dict(sorted((PLAIN | more).items())))
    assert {item.captions for item in source.items} == {(), ("a cat",)}
    assert capsys.readouterr().err == ("warning: captions of x.tar: 2 x image without a caption\n")


def test_imagenets_own_tars_are_a_class_each(tmp_path: Path, write_tar: Write) -> None:
    (tmp_path / "train").mkdir()
    for wnid in ("n01443537", "n01440764"):
        write_tar(tmp_path / "train" / f"{wnid}.tar", {f"{wnid}_{i}.JPEG": b"" for i in range(2)})
    source = open_source(str(tmp_path / "train"))
    assert source.classes == ["n01440764", "n01443537"]
    assert [(item.name, item.label) for item in source.items] == [
        ("n01440764/n01440764_0", 0),
        ("n01440764/n01440764_1", 0),
        ("n01443537/n01443537_0", 1),
        ("n01443537/n01443537_1", 1),
    ]


def test_without_classes_and_folders_there_is_one_class(write: Callable[..., Source]) -> None:
    source = write({"1.jpg": b"one", "2.jpg": b"two"})
    assert len(source.classes) == 1
    assert {item.label for item in source.items} == {0}


def test_hidden_files_and_samples_without_image_are_no_items(write: Callable[..., Source]) -> None:
    more = {"._0001.jpg": b"", "__MACOSX/0001.jpg": b"", "meta.json": b"{", "README": b""}
    assert contents(write(SAMPLES | more)) == contents(write(SAMPLES))


def test_names_are_split_at_the_first_dot(write: Callable[..., Source]) -> None:
    files = {"v1.0/a.jpg": b"image", "v1.0/a.mask.png": b"mask", "v1.0/a.CLS": b"4"}
    assert contents(write(files)) == {"x/v1.0/a": (4, b"image")}
    files = {"v1.0/a.input.jpg": b"image", "v1.0/a.cls": b"4"}
    assert contents(write(files)) == {"x/v1.0/a": (4, b"image")}


def test_parts_of_a_sample_need_not_be_neighbors(write: Callable[..., Source]) -> None:
    source = write(dict(sorted(SAMPLES.items(), key=lambda item: item[0][::-1])))
    assert sorted(contents(source).items()) == sorted(contents(write(SAMPLES)).items())


def test_a_file_that_occurs_twice_counts_as_it_is_last(tmp_path: Path, write_tar: Write) -> None:
    path = write_tar(tmp_path / "x.tar", SAMPLES)
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("0001.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"new"))
    assert contents(open_source(str(path)))["x/0001"] == (2, b"new")


@pytest.fixture
def shards(tmp_path: Path, write_tar: Write) -> Path:
    for number in range(12):
        files = {"a.jpg": f"{number} a".encode(), "a.cls": str(number).encode()}
        write_tar(tmp_path / f"train-{number:04d}.tar", files)
    return tmp_path


def test_shards_are_a_folder_or_a_pattern(shards: Path) -> None:
    (shards / "README.md").write_text("about")
    (shards / "sizes.json").write_text("{}")
    folder = open_source(str(shards))
    pattern = open_source(f"{shards}/train-{{0000..0011}}.tar")
    assert folder.items == pattern.items
    assert folder.fingerprint == pattern.fingerprint
    assert contents(folder) == {
        f"train-{i:04d}/a": (i, f"{i} a".encode()) for i in range(12)
    }  # all have a sample `a`
    assert (folder.name, pattern.name) == (shards.name, "train-{0000..0011}.tar")
    assert list(contents(open_source(f"{shards}/train-{{0003..0004}}.tar"))) == [
        "train-0003/a",
        "train-0004/a",
    ]


def test_shards_of_the_same_name_in_different_folders(tmp_path: Path, write_tar: Write) -> None:
    for number in range(2):
        (tmp_path / f"part{number}").mkdir()
        write_tar(tmp_path / f"part{number}/x.tar", {"a.jpg": str(number).encode()})
    source = open_source(f"{tmp_path}/part{{0..1}}/x.tar")
    assert contents(source) == {"part0/x/a": (0, b"0"), "part1/x/a": (0, b"1")}


def test_a_folder_with_tars_beside_images_is_a_folder_of_images(
    tmp_path: Path, write_tar: Write, write_folder: Write
) -> None:
    folder = write_folder(tmp_path / "pictures", PLAIN)
    write_tar(folder / "original.tar", PLAIN)
    assert open_source(str(folder)).classes == ["cat", "dog"]


def test_braces_are_expanded() -> None:
    assert expand_braces("a/{08..11}.tar") == [Path(f"a/{n}.tar") for n in ("08", "09", "10", "11")]
    assert expand_braces("{8..10}") == [Path("8"), Path("9"), Path("10")]
    assert expand_braces("{0..1}x{3..4}") == [Path(n) for n in ("0x3", "0x4", "1x3", "1x4")]
    for pattern in ("{3..2}.tar", "{0..999999999999}.tar", "{0..9999}{0..9999}.tar"):
        with pytest.raises(RepaError, match="stands for .* files; expected 1 to 100000"):
            expand_braces(pattern)


def test_a_missing_shard_is_named(shards: Path) -> None:
    with pytest.raises(RepaError, match="cannot read .*train-0012.tar: No such file"):
        open_source(f"{shards}/train-{{0010..0013}}.tar")


def test_only_a_few_tars_stay_open(shards: Path) -> None:
    source = open_source(str(shards))
    before = len(os.listdir("/proc/self/fd"))
    for index in [*range(12), *range(12)]:
        assert source.read(index) == f"{index} a".encode()
        assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_links_and_devices_are_no_images(tmp_path: Path, write_tar: Write) -> None:
    path = tmp_path / "x.tar"
    (tmp_path / "secret.png").write_bytes(b"secret")
    with tarfile.open(path, "w") as tar:
        for name, type_ in {
            "soft.png": tarfile.SYMTYPE,
            "hard.png": tarfile.LNKTYPE,
            "device.png": tarfile.CHRTYPE,
            "pipe.png": tarfile.FIFOTYPE,
            "folder.png": tarfile.DIRTYPE,
        }.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = type_, str(tmp_path / "secret.png")
            tar.addfile(member)
        member = tarfile.TarInfo("cat.png")
        member.size = 6
        tar.addfile(member, io.BytesIO(b"inside"))
    assert contents(open_source(str(path))) == {"x/cat": (0, b"inside")}
    assert sorted(os.listdir(tmp_path)) == ["secret.png", "x.tar"]


@pytest.mark.parametrize("name", ["../up.png", "a/../../up.png", "/etc/cat.png"])
def test_names_that_climb_are_refused(tmp_path: Path, write_tar: Write, name: str) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": b"a", name: b"b"})
    with pytest.raises(RepaError, match=f"{path} has the member {name}, which leads out of it"):
        open_source(str(path))


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_may_be_long_or_not_unicode(tmp_path: Path, format_: int) -> None:
    names = ["long/" * 60 + "ä.jpg", os.fsdecode(b"caf\xe9/1.jpg")]
    with tarfile.open(tmp_path / "x.tar", "w", format=format_, errors="surrogateescape") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    source = open_source(str(tmp_path / "x.tar"))
    assert [item.name for item in source.items] == [f"x/{name[:-4]}" for name in names]
    assert source.classes == ["caf\\udce9", "long"]
    assert source.read(0) == source.read(1) == b"abc"
    assert len(source.fingerprint) == 64


FAULTS: dict[str, tuple[dict[str, bytes], str]] = {
    "two images": ({"a.jpg": b"", "a.png": b""}, "sample a in x.tar has the images jpg, png"),
    "two odd images": ({"a.1.jpg": b"", "a.2.jpg": b""}, "has the images 1.jpg, 2.jpg; expected"),
    "missing class": ({"a.jpg": b"", "a.cls": b"0", "b.jpg": b""}, "sample x/b has no label; oth"),
    "empty class": ({"a.jpg": b"", "a.cls": b"0", "b.jpg": b"", "b.cls": b" "}, "x/b has no label"),
    "negative": ({"a.jpg": b"", "a.cls": b"-1"}, "x.tar has class -1; expected 0 to 999999"),
    "absurd": ({"a.jpg": b"", "a.cls": b"1000000"}, "x.tar has class 1000000; expected"),
    "no image": ({"a.cls": b"0", "b.txt": b"text"}, "no image in x.tar"),
    "huge": ({"a.jpg": b"", "a.txt": bytes(1 << 20) + b"x"}, "a in x.tar has 1048577 bytes"),
    "no JSON": ({"a.jpg": b"", "a.json": b"{"}, "the .json of a in x.tar is not of the form"),
    "JSON list": ({"a.jpg": b"", "a.json": b"[1]"}, "not of the form"),
    "JSON number": ({"a.jpg": b"", "a.json": b"1"}, "not of the form"),
    "nested JSON": ({"a.jpg": b"", "a.json": b"[" * 100_000}, "not of the form"),
    "long number": ({"a.jpg": b"", "a.json": b"9" * 100_000}, "not of the form"),
    "fraction": ({"a.jpg": b"", "a.json": b'{"label": 1.5}'}, "not of the form"),
    "truth value": ({"a.jpg": b"", "a.json": b'{"label": true}'}, "not of the form"),
    "caption number": ({"a.jpg": b"", "a.json": b'{"caption": 1}'}, "not of the form"),
    "caption in Latin-1": (
        {"a.jpg": b"", "a.txt": b"caf\xe9"},
        r"the .txt of a in x.tar is not UTF-8 \(byte 3\); save it in that encoding",
    ),
    "class in Latin-1": ({"a.jpg": b"", "a.cls": b"caf\xe9"}, "the .cls of a in x.tar is not UTF"),
    "JSON in Latin-1": ({"a.jpg": b"", "a.json": b'{"caption": "caf\xe9"}'}, "is not UTF-8"),
    "caption numbers": ({"a.jpg": b"", "a.json": b'{"caption": [1]}'}, "not of the form"),
}


@pytest.mark.parametrize(("files", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_clear_line(
    write: Callable[..., Source], files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(RepaError, match=message) as error:
        write(files)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar"])
def test_a_compressed_tar_is_refused(tmp_path: Path, write_tar: Write, name: str) -> None:
    data = write_tar(tmp_path / "plain", SAMPLES).read_bytes()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / name).write_bytes(gzip.compress(data))
    for source in (tmp_path / "shards" / name, tmp_path / "shards"):
        with pytest.raises(RepaError, match=f"{name} is compressed, .* decompress it first"):
            open_source(str(source))


@pytest.mark.parametrize("data", [b"", b"no tar", b"no tar" * 1000, b"PK\x03\x04" * 300])
def test_a_file_that_is_no_tar(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(RepaError, match="x.tar is no readable tar"):
        open_source(str(tmp_path / "x.tar"))


def test_of_a_truncated_tar_the_complete_members_are_used(
    tmp_path: Path, write_tar: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tar(tmp_path / "x.tar", SAMPLES)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        ends = [member.offset_data + member.size for member in tar]
    for length in range(600, ends[-1] + 600, 100):
        count = sum(end <= length for end in ends)
        expected = contents(open_source(str(write_tar(path, dict(list(SAMPLES.items())[:count])))))
        assert "is cut off" not in capsys.readouterr().err
        path.write_bytes(whole[:length])
        assert contents(open_source(str(path))) == expected
        assert "x.tar is cut off or damaged after byte" in capsys.readouterr().err
    path.write_bytes(whole[:520])  # one byte less than the first image
    with pytest.raises(RepaError, match="no image in x.tar"):
        open_source(str(path))


def test_a_last_sample_that_lost_its_class_is_left_out(tmp_path: Path, write_tar: Write) -> None:
    files = {"a.jpg": b"a", "a.cls": b"1", "b.jpg": b"b", "b.cls": b"0"}
    path = write_tar(tmp_path / "x.tar", files)
    path.write_bytes(path.read_bytes()[: 3 * 1024 + 512])
    assert contents(open_source(str(path))) == {"x/a": (1, b"a")}


def test_a_damaged_header_ends_the_tar(
    tmp_path: Path, write_tar: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tar(tmp_path / "x.tar", PLAIN)
    data = bytearray(path.read_bytes())
    data[1024 + 20] ^= 255
    path.write_bytes(data)
    assert contents(open_source(str(path))) == {"x/cat/1": (0, b"cat one")}
    assert "damaged after byte 1024" in capsys.readouterr().err


def test_a_header_that_points_backwards_does_not_hang(tmp_path: Path, write_tar: Write) -> None:
    path = write_tar(tmp_path / "x.tar", PLAIN)
    data = bytearray(path.read_bytes())
    header = data[1024:1536]
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # a size of -1024: back to this header's start
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    data[1024:1536] = header
    path.write_bytes(data)
    assert contents(open_source(str(path))) == {"x/cat/1": (0, b"cat one")}


def test_a_tar_that_shrinks_or_disappears(tmp_path: Path, write_tar: Write) -> None:
    path = write_tar(tmp_path / "x.tar", PLAIN)
    source = open_source(str(path))
    os.truncate(path, 600)
    with pytest.raises(OSError, match="ends after 0 of 7 bytes"):
        source.read(2)
    path.unlink()
    with pytest.raises(RepaError, match="cannot read .*x.tar: No such file"):
        pickle.loads(pickle.dumps(source)).read(0)
