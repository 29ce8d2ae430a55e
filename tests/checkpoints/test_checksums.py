"""Checksums in a checkpoint's folder: what changed is found, and nothing else is."""

import shutil
import subprocess
from pathlib import Path

import pytest

from repa.checkpoints.checksums import CHECKSUMS, check_file, check_folder, write_checksums
from repa.errors import RepaError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files and their checksums."""
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "state.json").write_text("{}\n")
    write_checksums(tmp_path)
    return tmp_path


def test_what_was_written_passes(folder: Path) -> None:
    check_folder(folder)
    check_file(folder / "a.bin")
    write_checksums(folder)  # not of themselves
    check_folder(folder)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum on this machine")
def test_they_are_what_sha256sum_reads(folder: Path) -> None:
    command = ["sha256sum", "--check", "--strict", CHECKSUMS]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "a.bin").write_bytes(b"else")
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode


@pytest.mark.parametrize("place", [0, 1000, 2559])
def test_one_changed_bit_is_found(folder: Path, place: int) -> None:
    content = bytearray((folder / "a.bin").read_bytes())
    content[place] ^= 1
    (folder / "a.bin").write_bytes(content)
    for check, path in ((check_file, folder / "a.bin"), (check_folder, folder)):
        with pytest.raises(RepaError, match=r"damaged checkpoint: .*a\.bin is not what was writ"):
            check(path)
    check_file(folder / "state.json")


def test_a_missing_file_is_found(folder: Path) -> None:
    (folder / "a.bin").unlink()
    with pytest.raises(RepaError, match=r"a\.bin: No such file"):
        check_folder(folder)


def test_folders_of_older_versions_have_none(folder: Path) -> None:
    (folder / CHECKSUMS).unlink()
    (folder / "a.bin").write_bytes(b"else")
    check_folder(folder)
    check_file(folder / "a.bin")


@pytest.mark.parametrize("line", ["hello", "0" * 64 + "  ../a", "0" * 64 + "  /etc/passwd", "é"])
def test_lines_of_another_form_are_refused(folder: Path, line: str) -> None:
    (folder / CHECKSUMS).write_text(line + "\n")
    with pytest.raises(RepaError, match=r"damaged checkpoint: .*SHA256SUMS"):
        check_folder(folder)
