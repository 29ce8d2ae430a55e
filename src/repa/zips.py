"""Members of zip files, which may be anyone's: nothing is unpacked to a disk, nor without limit."""

from __future__ import annotations

import zipfile

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # Python unpacks others as far as they go
LARGE = 1 << 26  # bytes; below that no ratio is looked at
MAX_RATIO = 200  # of the size of what is large to its packed size; images and numbers have 1 to 20


def check_member(info: zipfile.ZipInfo) -> None:
    """Whether a member is packed so that reading it takes no more memory than it says.

    Raises:
        ValueError: if it is not stored or deflated, or absurdly large for its packed size.
    """
    if info.compress_type not in METHODS:
        raise ValueError(
            f"packed by method {info.compress_type}, which may grow without limit; pack it anew, "
            "stored or deflated"
        )
    if info.file_size > max(LARGE, MAX_RATIO * info.compress_size):
        raise ValueError(
            f"{info.file_size} bytes when unpacked, from {info.compress_size}: a decompression "
            "bomb; if it is none, store it unpacked"
        )


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member, whole, its checksum verified.

    Args:
        archive: the zip.
        name: of the member.
        limit: bytes that it may have when unpacked.

    Raises:
        Exception: if there is none, it is larger or such as `check_member` refuses, or whatever
            zipfile makes of broken bytes.
    """
    info = archive.getinfo(name)
    check_member(info)
    if info.file_size > limit:
        raise ValueError(f"{info.file_size} bytes when unpacked; expected at most {limit}")
    with archive.open(info) as member:
        data = member.read(info.file_size)  # not all that comes: it may be more than it says
    if len(data) != info.file_size:
        raise ValueError(f"{len(data)} of {info.file_size} bytes")
    return data
