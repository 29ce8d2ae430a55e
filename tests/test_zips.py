import io
import zipfile

import pytest

from repa.zips import LARGE, read_member


def archive(data: bytes, method: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipFile:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        made.writestr("x", data)
    return zipfile.ZipFile(buffer)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_member_is_read_whole(method: int, size: int) -> None:
    assert read_member(archive(bytes(size), method), "x", 5000) == bytes(size)


def test_a_member_larger_than_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="5000 bytes when unpacked; expected at most 4999"):
        read_member(archive(bytes(5000)), "x", 4999)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_without_limit_is_refused(method: int) -> None:
    with pytest.raises(ValueError, match=f"packed by method {method}, which may grow"):
        read_member(archive(b"x", method), "x", 9)


def test_what_grows_absurdly_is_a_bomb() -> None:
    assert len(read_member(archive(bytes(LARGE)), "x", 2 * LARGE)) == LARGE
    with pytest.raises(ValueError, match=f"{LARGE + 1} bytes when unpacked, from .* bomb"):
        read_member(archive(bytes(LARGE + 1)), "x", 2 * LARGE)
    stored = archive(bytes(LARGE + 1), zipfile.ZIP_STORED)
    assert len(read_member(stored, "x", 2 * LARGE)) == LARGE + 1
