"""Archives from anyone: zips and tars of images, npz of samples and statistics."""

import io
import json
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reliability.mutations import bounded_memory, mutated, only_documented, unchanged
from repa.data.crop import Cropped, crop_batches, source_batches
from repa.data.sources import Source, open_source
from repa.errors import RepaError
from repa.evaluation.npz import NpzImages
from repa.evaluation.statistics import read_reference

pytestmark = pytest.mark.promise("5 untrusted files")

NAMES = st.sampled_from(
    ["a/1.png", "../../x.png", "/etc/x.png", "a/../../b.png", "", "/", "..", "a\nb\x1b[2J.png",
     "a.txt", "a/1.txt", "dataset.json", "metadata.jsonl", "x.cls", "x.json", "x.png", "x.jpg",
     "\u202e.png", "annotations/captions_val2014.json", "ILSVRC/Data/CLS-LOC/val/1.JPEG",
     "a/" * 50 + "x.png"]
) | st.text(max_size=12)  # fmt: skip
NETWORK: Any = SimpleNamespace(name="inception", dim=3, spatial_dim=2, fingerprint="f")


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(108, dtype=np.uint8).reshape(6, 6, 3)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture()
FILES = {
    "x/a/1.png": PICTURE,
    "x/b/2.png": PICTURE,
    "x/b/2.txt": b"a caption",
    "x/b/3.jpg": b"broken",
    "x/dataset.json": json.dumps(
        {"labels": [["a/1.png", 1], ["b/2.png", 0], ["b/3.jpg", 0]]}
    ).encode(),
}
SAMPLES = {
    "a/1.png": PICTURE, "a/1.cls": b"3", "a/1.txt": b"a caption",
    "b/2.png": PICTURE, "b/2.json": b'{"label": 1, "caption": ["b"]}',
}  # fmt: skip
CONTENTS = st.sampled_from(
    [PICTURE, b"", b"1", b'{"labels": [["x.png", 0]]}', b"[" * 9999, b"\xff"]
)
MEMBERS = st.lists(st.tuples(NAMES, CONTENTS), max_size=5)


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name or "?"), data, method)
    return buffer.getvalue()


def tarred(
    members: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE, link: str = ""
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), kind, link
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def arrays(**of: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **of)
    return buffer.getvalue()


NPZ = arrays(
    arr_0=np.zeros((3, 4, 4, 3), np.uint8),
    mu=np.zeros(3),
    sigma=np.eye(3),
    mu_s=np.zeros(2),
    sigma_s=np.eye(2),
    features=np.zeros((4, 3), np.float32),
    network=np.array("inception"),
    count=np.array(4),
    image_size=np.array([4, 4]),
)
VALID = {
    "x.zip": zipped(list(FILES.items())),
    "x.tar": tarred(list(SAMPLES.items())),
    "x.npz": NPZ,
}


def prepared(path: Path) -> list[Cropped]:
    """All that `repa prepare` takes of a source."""
    source = open_source(str(path))
    assert isinstance(source, Source)
    batches = source_batches(list(range(min(len(source.items), 99))), [0], 99, 4)
    with crop_batches(source, batches, 4, num_workers=0) as cropped:
        return list(cropped)


def evaluated(path: Path) -> None:
    """All that `repa evaluate` takes of an npz."""
    with only_documented():
        read_reference(path, NETWORK)
    images = NpzImages(path)
    for batch in images.read(range(min(len(images), 99)), 4):
        assert batch.shape[1:] == images.shape[1:]


@given(data=st.data())
@pytest.mark.parametrize("name", VALID)
def test_any_archive_is_read_or_one_line(
    name: str, data: st.DataObject, tmp_path: Path, survived: Callable[[], None]
) -> None:
    made = {"x.zip": MEMBERS.map(zipped), "x.tar": MEMBERS.map(tarred)}
    contents = mutated(VALID[name]) | made.get(name, mutated(VALID[name])) | st.binary(max_size=99)
    path = tmp_path / name
    path.write_bytes(data.draw(contents))
    with unchanged(tmp_path.parent), only_documented():
        (evaluated if name == "x.npz" else prepared)(path)
    survived()


@given(data=st.data())
def test_any_array_of_an_npz_is_read_or_one_line(
    data: st.DataObject, tmp_path: Path, survived: Callable[[], None]
) -> None:
    member = data.draw(st.sampled_from(["arr_0", "mu", "sigma", "features", "network", "count"]))
    with zipfile.ZipFile(io.BytesIO(NPZ)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[f"{member}.npy"] = data.draw(mutated(members[f"{member}.npy"]) | st.binary(max_size=99))
    (tmp_path / "x.npz").write_bytes(zipped(list(members.items())))
    with unchanged(tmp_path), only_documented():
        evaluated(tmp_path / "x.npz")
    survived()


LINKS = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE,
         "pipe": tarfile.FIFOTYPE}  # fmt: skip


@pytest.mark.parametrize("kind", LINKS.values(), ids=LINKS)
def test_links_and_devices_in_a_tar_are_no_images(kind: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tarred([("a/1.png", b"")], kind, "/etc/passwd"))
    with pytest.raises(RepaError, match="no image in x.tar"), unchanged(tmp_path):
        prepared(tmp_path / "x.tar")


@pytest.mark.parametrize("name", ["/etc/1.png", "../../../1.png", "a/../../1.png", "a/.."])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_that_lead_out_are_refused(
    pack: Callable[..., bytes], name: str, tmp_path: Path
) -> None:
    path = tmp_path / "given" / ("x.zip" if pack is zipped else "x.tar")
    path.parent.mkdir()
    path.write_bytes(pack([("a/1.png", PICTURE), (name, PICTURE)]))
    message = f"{path} has the member {name}, which leads out of it"
    with pytest.raises(RepaError, match=message), unchanged(tmp_path):
        prepared(path)


def skipped(path: Path) -> str:
    """Why the one image of a source was left out."""
    with bounded_memory(1 << 28):
        [cropped] = prepared(path)
    [reason] = cropped.skipped.values()
    return reason


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped([("1.png", bytes(400 << 20))]))
    assert (tmp_path / "x.zip").stat().st_size < 1 << 20
    assert "a decompression bomb" in skipped(tmp_path / "x.zip")


@pytest.mark.parametrize("size", [100, 1 << 19])
def test_a_zip_bomb_that_claims_to_be_small_is_not_unpacked(size: int, tmp_path: Path) -> None:
    data = zipped([("1.png", bytes(400 << 20))])
    real = (400 << 20).to_bytes(4, "little")
    assert data.count(real) == 2
    (tmp_path / "x.zip").write_bytes(data.replace(real, size.to_bytes(4, "little")))
    assert "Bad CRC-32" in skipped(tmp_path / "x.zip")


def test_packing_that_grows_without_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped([("1.png", PICTURE)], zipfile.ZIP_BZIP2))
    assert "packed by method 12" in skipped(tmp_path / "x.zip")


def test_a_member_of_a_tar_may_have_holes(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    member = tarfile.TarInfo("1.png")
    member.size = 1 << 40
    path.write_bytes(member.tobuf())
    os.truncate(path, (1 << 40) + 4096)
    assert "bytes; expected at most" in skipped(path)


def bomb(shape: tuple[int, ...], dtype: str, size: int, name: str) -> bytes:
    """An npz with an array of so many zeros."""
    header = io.BytesIO()
    about = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return zipped([(f"{name}.npy", header.getvalue() + bytes(size))])


LONG_HEADER = b"\x93NUMPY\x02\x00\xff\xff\xff\xff"  # of four gigabytes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bomb((1, 20000, 20000, 3), "|u1", 0, "arr_0"), "images of 20000x20000 pixels"),
        (bomb((-1, -1, 1, 3), "|u1", 3, "arr_0"), "expected uint8"),
        (bomb((1 << 62, 4, 1, 3), "|u1", 0, "arr_0"), "0 bytes of data"),
        (bomb((10**30, 1, 1, 3), "|u1", 0, "arr_0"), "0 bytes of data"),
        (zipped([("arr_0.npy", LONG_HEADER + bytes(300 << 20))]), "no readable npz"),
        (bomb((100 << 20,), "<f4", 400 << 20, "mu"), "a decompression bomb"),
        (bomb((10**12,), "<f4", 0, "mu"), "no readable npz"),
        (zipped([("mu.npy", bytes(99))], zipfile.ZIP_LZMA), "packed by method 14"),
        (zipped([("arr_0.npy", bytes(99))], zipfile.ZIP_BZIP2), "packed by method 12"),
    ],
)  # fmt: skip
def test_an_npz_that_is_a_bomb_is_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(data)

    def read(path: Path) -> None:
        read_reference(path, NETWORK)
        NpzImages(path)

    with pytest.raises(RepaError, match=message), bounded_memory(1 << 28):
        read(tmp_path / "x.npz")


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar.bz2", "tar.xz", "tar.zst", "tar"])
@pytest.mark.parametrize("magic", [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"])
def test_a_compressed_tar_is_not_unpacked(magic: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x.{suffix}").write_bytes(magic + bytes(99))
    with pytest.raises(RepaError, match="decompress it first"), unchanged(tmp_path):
        prepared(tmp_path / f"x.{suffix}")
