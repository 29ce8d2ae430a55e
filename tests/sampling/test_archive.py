import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repa.errors import RepaError
from repa.sampling.archive import SampleArchive

REQUEST = {"seed": 0, "steps": (1, 2)}


def images(indices: range) -> np.ndarray:
    """(n, 2, 3, 3): every image another color."""
    return np.stack([np.full((2, 3, 3), index, np.uint8) for index in indices])


def archive(tmp_path: Path, count: int = 10, png: bool = False, **request) -> SampleArchive:
    return SampleArchive(tmp_path / "out" / "a", REQUEST | {"png": png} | request, count, png)


def fill(samples: SampleArchive, *parts: range) -> None:
    for part in parts:
        samples.add(part, images(part), np.array(part))


@pytest.mark.parametrize(
    "parts",
    [
        [range(4), range(4, 8), range(8, 10)],
        [range(8, 10), range(4), range(4, 8)],
        [
            range(0, 6, 2),
            range(1, 6, 2),
            range(6, 10, 2),
            range(7, 10, 2),
        ],
        [range(1), range(1, 10)],
    ],
)
def test_parts_become_one_archive_in_order(tmp_path: Path, parts: list[range]) -> None:
    samples = archive(tmp_path)
    samples.begin(overwrite=False)
    assert samples.missing() == list(range(10))
    fill(samples, *parts[:-1])
    assert samples.missing() == list(parts[-1])
    assert not samples.complete
    fill(samples, parts[-1])
    samples.finish()
    with np.load(samples.npz, allow_pickle=False) as arrays:
        assert arrays.files == ["arr_0"]
        np.testing.assert_array_equal(arrays["arr_0"], images(range(10)))
        assert arrays["arr_0"].dtype == np.uint8
    record = json.loads(samples.record.read_text())
    assert record["request"] == {"seed": 0, "steps": [1, 2], "png": False}
    assert record["labels"] == list(range(10))
    assert samples.complete
    assert sorted(path.name for path in samples.npz.parent.iterdir()) == ["a.json", "a.npz"]


def test_equal_images_make_equal_files(tmp_path: Path) -> None:
    contents = []
    for name, parts in (("x", [range(10)]), ("y", [range(7, 10), range(7)])):
        samples = archive(tmp_path / name)
        samples.begin(overwrite=False)
        fill(samples, *parts)
        samples.finish()
        contents.append(samples.npz.read_bytes())
    assert contents[0] == contents[1]


def test_png_files_on_request(tmp_path: Path) -> None:
    samples = archive(tmp_path, count=3, png=True)
    samples.begin(overwrite=False)
    fill(samples, range(3))
    with Image.open(samples.pictures / "000002.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), images(range(3))[2])
    assert len(list(samples.pictures.iterdir())) == 3


def test_other_samples_are_not_touched(tmp_path: Path) -> None:
    first = archive(tmp_path, count=3, png=True)
    first.begin(overwrite=False)
    fill(first, range(2))
    with pytest.raises(RepaError, match=r"a holds other samples \(different: seed\): choose"):
        archive(tmp_path, count=3, png=True, seed=1).begin(overwrite=False)
    assert first.missing() == [2]
    fill(first, range(2, 3))
    first.finish()
    before = first.npz.read_bytes()
    with pytest.raises(RepaError, match=r"different: extra, seed"):
        archive(tmp_path, count=3, png=True, seed=1, extra=1).begin(overwrite=False)
    assert first.npz.read_bytes() == before
    first.begin(overwrite=False)  # the same again is complete
    assert first.complete

    other = archive(tmp_path, count=2, png=True, seed=1)
    (first.pictures / "mine.png").touch()
    other.begin(overwrite=True)
    assert other.missing() == [0, 1]
    assert not first.npz.exists()
    assert [path.name for path in first.pictures.iterdir()] == ["mine.png"]


@pytest.mark.parametrize("drawn", [range(0), range(2), range(3)])
def test_png_files_of_images_that_were_drawn_without(tmp_path: Path, drawn: range) -> None:
    first = archive(tmp_path, count=3)
    first.begin(overwrite=False)
    fill(first, *([drawn] if drawn else []))
    if len(drawn) == 3:
        first.finish()
    before = first.npz.read_bytes() if first.npz.exists() else None
    again = archive(tmp_path, count=3, png=True)
    assert not again.complete
    again.begin(overwrite=False)
    assert again.complete == (len(drawn) == 3)
    if not again.complete:
        assert again.missing() == list(range(3))[len(drawn) :]
        fill(again, range(len(drawn), 3))
        again.finish()
    for index in range(3):
        with Image.open(again.pictures / f"{index:06d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), images(range(3))[index])
    assert before in (None, again.npz.read_bytes())
    record = json.loads(again.record.read_text())
    assert (record["request"]["png"], record["labels"]) == (True, [0, 1, 2])
    assert not again.partial.exists()
    again.begin(overwrite=False)  # its own pictures are not in the way
    archive(tmp_path, count=3).begin(overwrite=False)  # nor for who asks for none
    assert len(list(again.pictures.iterdir())) == 3


def test_png_files_of_others_are_in_the_way_of_finished_samples(tmp_path: Path) -> None:
    first = archive(tmp_path, count=2)
    first.begin(overwrite=False)
    fill(first, range(2))
    first.finish()
    first.pictures.mkdir()
    (first.pictures / "000001.png").write_text("mine")
    again = archive(tmp_path, count=2, png=True)
    with pytest.raises(RepaError, match=r"000001.png exists: choose another --sample-dir, or --ov"):
        again.begin(overwrite=False)
    assert (first.pictures / "000001.png").read_text() == "mine"
    again.begin(overwrite=True)
    assert again.complete


def test_a_damaged_archive_gives_no_png_files(tmp_path: Path) -> None:
    first = archive(tmp_path, count=2)
    first.begin(overwrite=False)
    fill(first, range(2))
    first.finish()
    data = bytearray(first.npz.read_bytes())
    data[len(data) // 2] ^= 1
    first.npz.write_bytes(data)
    message = r"a.npz is damaged \(.*\): delete it, and the same command draws it again"
    with pytest.raises(RepaError, match=message):
        archive(tmp_path, count=2, png=True).begin(overwrite=False)


def test_what_others_put_among_the_parts_stays(tmp_path: Path) -> None:
    samples = archive(tmp_path, count=2)
    samples.begin(overwrite=False)
    (samples.partial / "mine.txt").touch()
    fill(samples, range(2))
    samples.finish()
    assert [path.name for path in samples.partial.iterdir()] == ["mine.txt"]


def test_one_job_at_a_time_draws_the_samples_of_a_name(tmp_path: Path) -> None:
    samples = archive(tmp_path)
    with samples.alone():
        with pytest.raises(RepaError, match=r"out/a is in use by another job"):
            archive(tmp_path, seed=1).alone().__enter__()
        with SampleArchive(tmp_path / "out" / "b", REQUEST, 1, png=False).alone():
            pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.npz", "a/000000.png"])
def test_files_of_others_are_not_touched(tmp_path: Path, name: str) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    with pytest.raises(RepaError, match=f"{name} exists: choose another --sample-dir, or"):
        archive(tmp_path, png=True).begin(overwrite=False)
    assert path.read_bytes() == b"precious"


def test_texts_of_others_are_not_touched(tmp_path: Path) -> None:
    samples = archive(tmp_path, prompts="0123")
    samples.prompts.parent.mkdir()
    samples.prompts.write_text("precious")
    with pytest.raises(RepaError, match=r"a.prompts.jsonl exists: choose another --sample-dir, or"):
        samples.begin(overwrite=False)
    assert samples.prompts.read_text() == "precious"
    archive(tmp_path).begin(overwrite=False)  # of classes: it writes none


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"request": [1]}', '{"request": null}'])
def test_a_record_that_is_not_ours_is_kept(tmp_path: Path, text: str) -> None:
    samples = archive(tmp_path)
    samples.record.parent.mkdir()
    samples.record.write_text(text)
    for overwrite in (False, True):
        with pytest.raises(
            RepaError, match=r"a.json is no record of samples .*: choose another --sample-dir or"
        ):
            samples.begin(overwrite=overwrite)
    assert samples.record.read_text() == text


def test_overwriting_keeps_what_is_there_of_the_same_request(tmp_path: Path) -> None:
    samples = archive(tmp_path)
    samples.begin(overwrite=True)
    fill(samples, range(4))
    samples.begin(overwrite=True)  # the same command again, after a kill
    assert samples.missing() == list(range(4, 10))


def test_overwriting_removes_no_pictures_but_its_own(tmp_path: Path) -> None:
    samples = archive(tmp_path)
    samples.pictures.mkdir(parents=True)
    (samples.pictures / "000000.png").write_text("mine")
    samples.begin(overwrite=True)
    assert (samples.pictures / "000000.png").read_text() == "mine"


def test_parts_of_one_request_may_overlap(tmp_path: Path) -> None:
    # As an orphan with another batch size leaves them.
    samples = archive(tmp_path)
    samples.begin(overwrite=False)
    fill(samples, range(6), range(4, 8), range(8, 10), range(7, 10))
    samples.finish()
    with np.load(samples.npz) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], images(range(10)))


def test_requests_never_mix(tmp_path: Path) -> None:
    first, second = archive(tmp_path), archive(tmp_path, seed=1)
    first.begin(overwrite=False)
    fill(first, range(4))
    second.begin(overwrite=True)  # while the first is still drawing
    with pytest.raises(RepaError, match="cannot write samples"):
        fill(first, range(4, 10))
    assert second.missing() == list(range(10))


@pytest.mark.parametrize("keep", [0, 10, -40])
def test_a_damaged_part_is_drawn_again(tmp_path: Path, keep: int) -> None:
    samples = archive(tmp_path)
    samples.begin(overwrite=False)
    (samples.parts / "foreign.npz").touch()
    fill(samples, range(6), range(6, 10))
    part = next(samples.parts.glob("00000006-*"))
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(RepaError, match=r"00000006-.* was damaged .* the same command draws it"):
        samples.finish()
    assert samples.missing() == [6, 7, 8, 9]
    with pytest.raises(RepaError, match="lacks images: the same command draws them"):
        samples.finish()
    assert not list(samples.npz.parent.glob("*.npz*"))


def test_a_full_disk_at_the_end_leaves_the_parts(tmp_path: Path, monkeypatch) -> None:
    samples = archive(tmp_path)
    samples.begin(overwrite=False)
    fill(samples, range(10))

    def full(self, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SampleArchive, "_assemble", full)
        with pytest.raises(RepaError, match="cannot write samples: .*No space left"):
            samples.finish()
    assert [path.name for path in samples.npz.parent.iterdir()] == ["a.partial"]
    samples.finish()
    assert samples.complete


def test_a_damaged_archive_is_not_complete(tmp_path: Path) -> None:
    samples = archive(tmp_path)
    samples.begin(overwrite=False)
    fill(samples, range(10))
    samples.finish()
    samples.npz.write_bytes(samples.npz.read_bytes()[:100])
    samples.begin(overwrite=False)
    assert samples.missing() == list(range(10))


def test_what_a_kill_after_the_end_left_is_removed(tmp_path: Path) -> None:
    samples = archive(tmp_path)
    samples.begin(overwrite=False)
    fill(samples, range(10))
    samples.finish()
    samples.parts.mkdir(parents=True)
    samples.begin(overwrite=False)
    assert samples.complete
    assert not samples.partial.exists()


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_folder_alone_is_no_name(name: str) -> None:
    with pytest.raises(RepaError, match="expected a name for the samples"):
        SampleArchive(Path(name), REQUEST, 1, png=False)


def test_a_folder_called_npz_is_kept(tmp_path: Path) -> None:
    samples = archive(tmp_path)
    samples.npz.mkdir(parents=True)
    with pytest.raises(RepaError, match="a.npz is a folder"):
        samples.begin(overwrite=True)


def test_a_destination_that_cannot_be_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RepaError, match="--sample-dir .*out/a: "):
        archive(tmp_path).begin(overwrite=False)


def test_the_whole_is_never_in_memory(tmp_path: Path) -> None:
    samples = SampleArchive(tmp_path / "a", REQUEST, 8192, png=False)
    samples.begin(overwrite=False)
    for start in range(0, 8192, 64):
        part = range(start, start + 64)
        samples.add(part, np.zeros((64, 64, 64, 3), np.uint8), np.array(part))
    tracemalloc.start()
    samples.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert samples.npz.stat().st_size > 8192 * 64 * 64 * 3
    assert peak < 20 * 2**20  # of 100 MB
