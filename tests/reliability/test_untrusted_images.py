"""Images from anyone, and tables that name some: skipped or refused, never a full memory."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliability.mutations import bounded_memory, mutated, unchanged
from reliability.test_untrusted_archives import PICTURE
from repa.cli import main
from repa.data.images import MAX_PIXELS, decode_image
from repa.data.sources.stored import check_saved, roots_of, stored
from repa.errors import RepaError

pytestmark = pytest.mark.promise("5 untrusted files")


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says to be so large, with hardly any data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = (b"IDAT", zlib.compress(bytes(100)))
    found = b"\x89PNG\r\n\x1a\n"
    for name, content in [(b"IHDR", header), *chunks, data, (b"IEND", b"")]:
        found += struct.pack(">I", len(content)) + name + content
        found += struct.pack(">I", zlib.crc32(name + content))
    return found


TEXT_BOMB = (b"zTXt", b"a\x00\x00" + zlib.compress(bytes(200 << 20)))
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(30_000, 20_000), f"more than {MAX_PIXELS} pixels"),
        (png(2**31 - 1, 2**31 - 1), f"more than {MAX_PIXELS} pixels"),
        (png(6, 6, TEXT_BOMB), "."),
        (POSTSCRIPT, "not an image"),
    ],
    ids=["large photo", "absurd", "text", "PostScript"],
)
def test_a_bomb_is_not_decoded(data: bytes, message: str) -> None:
    with pytest.raises(Exception, match=message), bounded_memory(1 << 28):
        decode_image(data)


def test_an_oversized_photo_is_skipped_or_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.png").write_bytes(PICTURE)
    (tmp_path / "photos/2.png").write_bytes(png(30_000, 20_000))
    command = ["prepare", "--source", str(tmp_path / "photos"), "--resolution", "8"]
    command += ["--autoencoder", "pixel", "--enc-type", "none", "--num-workers", "0"]
    assert main([*command, "--dest", str(tmp_path / "one")]) == 0
    reason = f"more than {MAX_PIXELS} pixels, which may be a decompression bomb: scale it down"
    assert f"skipped 2.png: ValueError: {reason}" in capfd.readouterr().err
    assert main([*command, "--dest", str(tmp_path / "two"), "--strict"]) == 2
    assert f"--strict: 2.png: ValueError: {reason}" in capfd.readouterr().err


@given(data=st.data())
def test_any_image_is_decoded_or_an_error(
    data: st.DataObject, survived: Callable[[], None]
) -> None:
    try:
        image = decode_image(data.draw(mutated(PICTURE) | st.binary(max_size=99)))
    except Exception:  # which makes `prepare` skip it
        pass
    else:
        assert image.mode == "RGB"
    survived()


@pytest.mark.parametrize(
    "path",
    ["{}/secret", "{}/given/../secret", "file://{}/secret", "zip://a::{}/secret", "/dev/zero",
     "http://127.0.0.1/x", "s3://a/b", "file:///dev/zero::hf://a/b", "zip://{}/given/x.png"],
)  # fmt: skip
def test_a_table_names_no_files_elsewhere(path: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "given").mkdir()
    cell = {"bytes": None, "path": path.format(tmp_path)}
    with pytest.raises(ValueError, match="is not read; only files in the dataset's folder"):
        stored(cell, roots_of(tmp_path / "given"))


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/x.arrow", "", "..", 1, None])
def test_a_saved_dataset_names_no_files_elsewhere(name: object, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(RepaError, match="is no name of a part of it"), unchanged(tmp_path):
        check_saved(tmp_path)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    with pytest.raises(RepaError, match="is no name of a part of it"):
        check_saved(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "[]", '{"_data_files": 1}', "\xff"])
def test_a_saved_dataset_that_is_broken_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(content, encoding="latin-1")
    with pytest.raises(RepaError, match="damaged dataset"):
        check_saved(tmp_path)
