"""The checksums in a checkpoint's folder, as `sha256sum --check SHA256SUMS` reads them."""

from __future__ import annotations

from pathlib import Path

from repa.data.arrays import check_regular, checksum
from repa.errors import RepaError
from repa.files import write_atomically

CHECKSUMS = "SHA256SUMS"


def write_checksums(folder: Path) -> None:
    """Notes the SHA-256 of every file in a folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name != CHECKSUMS)
    lines = (f"{checksum(folder / name)}  {name}\n" for name in names)
    write_atomically(folder / CHECKSUMS, "".join(lines).encode())


def check_file(path: Path) -> None:
    """Compares a file with its checksum, if its folder has one for it: older ones have none.

    Raises:
        RepaError: if it is missing or not what was written.
    """
    expected = _read_checksums(path.parent).get(path.name)
    if expected is not None:
        _check(path, expected)


def check_folder(folder: Path) -> None:
    """Compares all files of a checkpoint with their checksums, if it has them.

    Raises:
        RepaError: if one is missing or not what was written.
    """
    for name, expected in _read_checksums(folder).items():
        _check(folder / name, expected)


def _check(path: Path, expected: str) -> None:
    try:
        found = checksum(path)
    except OSError as error:
        raise RepaError(f"damaged checkpoint: {path}: {error.strerror}") from None
    if found != expected:
        raise RepaError(f"damaged checkpoint: {path} is not what was written ({CHECKSUMS})")


def _read_checksums(folder: Path) -> dict[str, str]:
    """{file's name: SHA-256}; nothing but plain names of this folder."""
    file = folder / CHECKSUMS
    try:
        check_regular(file)
        lines = file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise RepaError(f"damaged checkpoint: {file}: {error}") from None
    sums = {}
    for line in lines:
        digest, gap, name = line[:64], line[64:66], line[66:]
        if gap not in ("  ", " *") or not name or Path(name).name != name:
            raise RepaError(f"damaged checkpoint: {file}: {line[:80]!r} is no checksum of a file")
        sums[name] = digest
    return sums
