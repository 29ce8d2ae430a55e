import hashlib
import io
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repa.data import PreparedDataset
from repa.errors import RepaError
from repa.evaluation import images as module
from repa.evaluation.images import ImageSet, digest


@pytest.fixture(scope="module")
def pixels(emoji: PreparedDataset) -> np.ndarray:
    """(7, 32, 32, 3), uint8."""
    return emoji.images(range(7)).transpose(0, 2, 3, 1)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path, pixels: np.ndarray) -> Path:
    (tmp_path / "samples").mkdir()
    for i, image in enumerate(pixels):
        (tmp_path / "samples" / f"{i:06d}.png").write_bytes(png(image))
    return tmp_path / "samples"


def everything(path: Path, batch_size: int = 3) -> np.ndarray:
    images = ImageSet(path)
    batches = list(images.batches(batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert all(batch.dtype == torch.uint8 for batch in batches)
    result = torch.cat(batches).permute(0, 2, 3, 1).numpy()
    assert len(result) == len(images)
    return result


def test_npz_folder_zip_and_dataset_give_the_same_pixels(
    tmp_path: Path, folder: Path, pixels: np.ndarray, emoji_dir: Path
) -> None:
    np.savez(tmp_path / "plain.npz", arr_0=pixels, mu=np.zeros(3))
    np.savez_compressed(tmp_path / "compressed.npz", pixels)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    for name in ("plain.npz", "compressed.npz", "images.zip", "samples"):
        np.testing.assert_array_equal(everything(tmp_path / name), pixels)
        np.testing.assert_array_equal(everything(tmp_path / name, batch_size=100), pixels)
    whole = everything(emoji_dir)
    assert len(whole) == 64
    np.testing.assert_array_equal(whole[:7], pixels)


NOT_IMAGES: dict[str, Callable[[Path], object]] = {
    "float": lambda path: np.savez(path, np.zeros((2, 4, 4, 3), np.float32)),
    "int64": lambda path: np.savez(path, np.zeros((2, 4, 4, 3), np.int64)),
    "gray": lambda path: np.savez(path, np.zeros((2, 4, 4), np.uint8)),
    "channels first": lambda path: np.savez(path, np.zeros((2, 3, 4, 4), np.uint8)),
    "alpha": lambda path: np.savez(path, np.zeros((2, 4, 4, 4), np.uint8)),
    "no image": lambda path: np.savez(path, np.zeros((0, 4, 4, 3), np.uint8)),
    "no pixels": lambda path: np.savez(path, np.zeros((2, 0, 4, 3), np.uint8)),
    "a scalar": lambda path: np.savez(path, np.uint8(3)),
}


@pytest.mark.parametrize("write", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_an_array_of_another_kind_is_one_clear_line(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    write(tmp_path / "x.npz")
    with pytest.raises(RepaError, match=r"x.npz: arr_0 is [^\n]*; expected uint8 \(N, H, W, 3\)$"):
        ImageSet(tmp_path / "x.npz")


def test_an_npz_without_arr_0_is_one_clear_line(tmp_path: Path, pixels: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", mu=np.zeros(3), images=pixels)
    with pytest.raises(RepaError, match=r"x.npz: no readable npz with arr_0[^\n]*$"):
        ImageSet(tmp_path / "x.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_one_clear_line(
    tmp_path: Path, pixels: np.ndarray, save: Callable[..., None]
) -> None:
    path = tmp_path / "x.npz"
    save(path, pixels)
    whole = path.read_bytes()
    variants = [whole[:length] for length in (0, 1, 30, 100, len(whole) // 2, len(whole) - 1)]
    for position in (70, 120, 150, len(whole) // 2):  # checksums find it, or what unpacks
        damaged = bytearray(whole)
        damaged[position : position + 8] = b"\xff" * 8
        variants.append(bytes(damaged))
    buffer = io.BytesIO()
    np.save(buffer, pixels)  # an .npy under the name of an .npz
    variants.append(buffer.getvalue())
    for data in variants:
        path.write_bytes(data)
        with pytest.raises(RepaError, match=r"x.npz: no readable npz with arr_0: [^\n]*$"):
            list(ImageSet(path).batches(2))


def test_a_pickle_in_an_npz_is_refused_and_not_run(tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was-run"),)

    buffer = io.BytesIO()
    np.save(buffer, np.array([Poison()]), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("arr_0.npy", buffer.getvalue())
    with pytest.raises(RepaError, match=r"arr_0 is object \(1,\); expected uint8"):
        ImageSet(tmp_path / "x.npz")
    assert not (tmp_path / "was-run").exists()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(RepaError, match="no readable npz"):
        ImageSet(tmp_path / "nowhere.npz")
    with pytest.raises(RepaError, match="no such source"):
        ImageSet(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RepaError, match=rf"^{tmp_path}/empty: no image in empty: expected"):
        ImageSet(tmp_path / "empty")


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    (folder / "000004.png").write_bytes(b"")
    with pytest.raises(RepaError, match=r"samples: 000004.png is no readable image: not an image$"):
        everything(folder)


@pytest.mark.parametrize("position", [1, 3, 6])
def test_an_image_of_another_size_is_named(folder: Path, position: int) -> None:
    """Also when it is the first one of its batch."""
    (folder / f"{position:06d}.png").write_bytes(png(np.zeros((16, 32, 3), np.uint8)))
    with pytest.raises(RepaError, match=rf"{position:06d}.png is 32x16; others are 32x32$"):
        everything(folder)


def test_any_range_is_read_of_every_kind(
    tmp_path: Path, folder: Path, pixels: np.ndarray, emoji_dir: Path
) -> None:
    np.savez(tmp_path / "x.npz", pixels)
    for path in (tmp_path / "x.npz", folder, emoji_dir):
        for wanted in (range(2, 7), range(3), range(3, 3), range(6, 7)):
            batches = list(ImageSet(path).batches(2, wanted))
            assert [len(batch) for batch in batches] == [
                min(2, wanted.stop - start) for start in range(wanted.start, wanted.stop, 2)
            ]
            read = np.concatenate([np.zeros((0, 3, 32, 32)), *batches])
            expected = pixels[wanted.start : wanted.stop].transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(read, expected)


def test_single_images_are_read_of_every_kind(
    tmp_path: Path,
    folder: Path,
    pixels: np.ndarray,
    emoji_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PICKED_BATCH", 2)
    np.savez(tmp_path / "x.npz", pixels)
    for path in (tmp_path / "x.npz", folder, emoji_dir):
        for wanted in ([6, 2, 3, 2], [0], [1, 5]):
            picked = ImageSet(path).pick(wanted)
            assert picked.dtype == torch.uint8
            np.testing.assert_array_equal(picked.permute(0, 2, 3, 1), pixels[wanted])


def test_the_size_is_known_beforehand(tmp_path: Path, emoji_dir: Path) -> None:
    pixels = np.zeros((2, 8, 12, 3), np.uint8)
    np.savez(tmp_path / "x.npz", pixels)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.png").write_bytes(png(pixels[0]))
    assert ImageSet(tmp_path / "x.npz").size == (8, 12)
    assert ImageSet(tmp_path / "files").size == (8, 12)
    assert ImageSet(emoji_dir).size == (32, 32)


def test_a_dataset_knows_its_labels(
    tmp_path: Path, folder: Path, emoji_dir: Path, emoji: PreparedDataset
) -> None:
    labels = ImageSet(emoji_dir).labels
    assert labels is not None
    assert labels.tolist() == emoji.labels.tolist()
    assert ImageSet(folder).labels is None
    np.savez(tmp_path / "x.npz", np.zeros((2, 4, 4, 3), np.uint8))
    for record, expected in (
        ('{"request": {}, "labels": [5, 3]}', [5, 3]),
        ('{"request": {}, "labels": [5, 3, 1]}', None),
        ('{"request": {}, "labels": [true, false]}', None),
        ('{"labels": [[1], [2, 3]]}', None),
        ('{"labels": [1, 1e400]}', None),
        ('{"labels": [1, 99999999999999999999]}', None),
        ('{"request": {"prompts": "3f2a"}, "labels": [0, 1]}', None),  # numbers of prompts
        ('{"request": 3, "labels": [5, 3]}', None),
        ("[5, 3]", None),
        ("[" * 100_000, None),
        ("no JSON", None),
    ):
        (tmp_path / "x.json").write_text(record)
        found = ImageSet(tmp_path / "x.npz").labels
        assert (None if found is None else found.tolist()) == expected, record


def test_files_are_decoded_at_the_same_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three waits until all three are there."""
    monkeypatch.setattr(module, "THREADS", 3)
    images = ImageSet(folder)
    barrier, decode = threading.Barrier(3), module.decode_image

    def together(data: bytes) -> Image.Image:
        barrier.wait(timeout=20)
        return decode(data)

    monkeypatch.setattr(module, "decode_image", together)
    assert len(list(images.batches(3, range(6)))) == 2


def test_a_digest_tells_what_has_changed(tmp_path: Path, folder: Path, emoji_dir: Path) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((2, 4, 4, 3), np.uint8))
    sha256 = hashlib.sha256((tmp_path / "x.npz").read_bytes()).hexdigest()
    assert digest(tmp_path / "x.npz") == sha256
    manifest = hashlib.sha256((emoji_dir / "manifest.json").read_bytes()).hexdigest()
    assert digest(emoji_dir) == manifest

    names = [f"{i:06d}.png" for i in range(7)]
    listing = "".join(f"{name} {(folder / name).stat().st_size}\n" for name in names)
    before = digest(folder)
    assert before == hashlib.sha256(listing.encode()).hexdigest()
    assert digest(Path(shutil.copytree(folder, tmp_path / "copy"))) == before
    (folder / "000003.png").write_bytes(png(np.zeros((32, 32, 3), np.uint8)))
    assert digest(folder) != before
    assert digest(Path("twemoji-val")) != digest(Path("twemoji-train"))


def test_a_dataset_that_is_not_finished_is_refused(tmp_path: Path, emoji_dir: Path) -> None:
    copy = Path(shutil.copytree(emoji_dir, tmp_path / "copy"))
    manifest = (copy / "manifest.json").read_text().replace('"complete": true', '"complete": false')
    (copy / "manifest.json").write_text(manifest)
    with pytest.raises(RepaError, match="is not finished"):
        ImageSet(copy)
