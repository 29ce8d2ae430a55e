import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from repa.errors import RepaError
from repa.evaluation import npz
from repa.evaluation.npz import NpzImages, npz_names, read_arrays


@pytest.fixture(params=[np.savez, np.savez_compressed])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (11, 5, 4, 3), np.uint8)
    request.param(tmp_path / "x.npz", arr_0=pixels, mu=np.zeros(3))
    return tmp_path / "x.npz", pixels


@pytest.mark.parametrize("wanted", [range(11), range(4), range(3, 11), range(5, 6), range(4, 4)])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_any_range_is_read_in_batches(
    archive: tuple[Path, np.ndarray],
    wanted: range,
    batch_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, pixels = archive
    monkeypatch.setattr(npz, "SKIP", 50)  # so that what is not wanted is read in parts
    images = NpzImages(path)
    assert (len(images), images.shape) == (11, (11, 5, 4, 3))
    batches = list(images.read(wanted, batch_size))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    read = np.concatenate([np.zeros((0, 5, 4, 3), np.uint8), *batches])
    np.testing.assert_array_equal(read, pixels[wanted.start : wanted.stop])


def test_images_are_never_in_memory_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((64, 16, 16, 3), np.uint8))
    largest = 0
    read = zipfile.ZipExtFile.read

    def watched(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        nonlocal largest
        data = read(self, n)
        largest = max(largest, len(data))
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "read", watched)
    monkeypatch.setattr(npz, "SKIP", 4096)
    assert sum(map(len, NpzImages(tmp_path / "x.npz").read(range(32, 64), 2))) == 32
    assert largest == 4096


def test_whoever_reads_the_last_image_finds_a_wrong_byte(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((10, 32, 32, 3), np.uint8))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[6000] ^= 1  # among the pixels, in the second image
    (tmp_path / "x.npz").write_bytes(data)
    images = NpzImages(tmp_path / "x.npz")
    assert sum(map(len, images.read(range(5), 4))) == 5
    with pytest.raises(RepaError, match="x.npz: no readable npz with arr_0: Bad CRC-32"):
        list(images.read(range(9, 10), 4))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_header_that_does_not_fit_the_data_is_refused(tmp_path: Path, change: int) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((10, 8, 8, 3), np.uint8))
    data = buffer.getvalue()
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("arr_0.npy", data[:-1] if change < 0 else data + b"\0")
    with pytest.raises(RepaError, match=rf"{1920 + change} bytes of data for \(10, 8, 8, 3\)"):
        NpzImages(tmp_path / "x.npz")


def test_a_header_of_enormous_images_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (1, 20_000, 10_000, 3)}
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("arr_0.npy", buffer.getvalue())
    with pytest.raises(RepaError, match=r"x\.npz: arr_0 has images of 10000x20000 pixels; exp"):
        NpzImages(tmp_path / "x.npz")


def test_fortran_order_is_refused_with_what_to_do(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.asfortranarray(np.zeros((3, 8, 8, 3), np.uint8)))
    with pytest.raises(RepaError, match="x.npz: arr_0 is in Fortran order; save numpy.ascontig"):
        NpzImages(tmp_path / "x.npz")


def test_names_and_arrays_are_read(archive: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, _ = archive
    assert npz_names(path) == {"arr_0", "mu"}
    np.testing.assert_array_equal(read_arrays(path, {"mu"})["mu"], np.zeros(3))
    with pytest.raises(RepaError, match=r"x.npz: no readable npz: [^\n]*sigma[^\n]*$"):
        read_arrays(path, {"mu", "sigma"})
    path.write_bytes(path.read_bytes()[:-30])
    for read in (npz_names, lambda path: read_arrays(path, {"mu"})):
        with pytest.raises(RepaError, match=r"x.npz: no readable npz: [^\n]*$"):
            read(path)
