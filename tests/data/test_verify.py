import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.preparing import Averages, Words, captioned_source, run
from repa.autoencoders import create_autoencoder
from repa.cli import main
from repa.data.arrays import checksum
from repa.data.format import read_manifest, read_record, write_manifest, write_record
from repa.data.prepare import extend
from repa.data.share import Work
from repa.data.sources import Source
from repa.data.verify import verify
from repa.errors import RepaError


@pytest.fixture
def folder(tmp_path: Path, source: Source, small_shards: None, vae_dir: Path) -> Path:
    vae = create_autoencoder(str(vae_dir))
    run(source, tmp_path / "out", Averages(), autoencoder=vae, feature_dtype="int8")
    return tmp_path / "out"


def test_a_whole_dataset_has_no_problems(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, problems = verify(folder)
    assert (manifest.num_images, problems) == (10, {})
    assert main(["prepare", "--verify", str(folder)]) == 0
    expected = f"{folder}: 10 images at 16 px, 3 classes, 3 files skipped; all 15 files are what"
    assert expected in capsys.readouterr().out


def test_any_changed_byte_of_any_file_is_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(folder.glob("shards/*/*.npy")):
        whole = path.read_bytes()
        for place in (10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            name = str(path.relative_to(folder))
            assert verify(folder)[1] == {name: "other bytes than were written (SHA-256)"}
        path.write_bytes(whole)
    path.unlink()
    assert main(["prepare", "--verify", str(folder)]) == 2
    captured = capsys.readouterr().err
    assert f"{path.relative_to(folder)}: missing\n" in captured
    assert "1 of 15 files are not what was written; delete the folders of their shards" in captured


def test_a_missing_shard_and_a_missing_record_are_found(folder: Path) -> None:
    shutil.rmtree(folder / "shards" / "00000")
    (folder / "shards" / "00001" / "shard.json").unlink()
    problems = verify(folder)[1]
    assert set(problems.values()) == {"its shard's record differs from the manifest's"}
    assert {name.split("/")[1] for name in problems} == {"00000", "00001"}


def test_arrays_that_do_not_fit_the_manifest_are_found(folder: Path) -> None:
    """Even if someone entered their checksums."""
    shard = folder / "shards" / "00000"
    wrong = {
        "images": np.zeros((4, 3, 8, 8), np.uint8),
        "labels": np.zeros(4, np.int32),
        "features.averages": np.zeros((4, 16, 3), np.float16),
        "features.averages.scale": np.zeros((3, 16), np.float32),
    }
    for name, array in wrong.items():
        np.save(shard / f"{name}.npy", array)
    record = read_record(shard)
    manifest = read_manifest(folder)
    assert record is not None
    assert manifest is not None
    sha256 = {name: checksum(shard / name) for name in record.sha256}
    record = record.model_copy(update={"sha256": sha256})
    write_record(shard, record)
    shards = [record, *manifest.shards[1:]]
    write_manifest(folder, manifest.model_copy(update={"shards": shards}))
    problems = verify(folder)[1]
    assert problems.keys() == {f"shards/00000/{name}.npy" for name in wrong}
    assert "expected uint8 (4, 3, 16, 16)" in problems["shards/00000/images.npy"]


def test_a_file_that_the_manifest_forgot_is_found(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest is not None
    del manifest.shards[0].sha256["labels.npy"]
    write_manifest(folder, manifest)
    assert verify(folder)[1] == {"shards/00000/labels.npy": "not in the manifest"}


def test_features_that_are_being_added_are_no_problem(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="on fire"):
        extend(folder, None, {"b": Averages(fail_at=3, name="b")}, Work(3, 0))
    assert verify(folder)[1] == {}


def test_there_must_be_a_finished_dataset(tmp_path: Path, source: Source) -> None:
    with pytest.raises(RepaError, match="no prepared dataset"):
        verify(tmp_path)
    with pytest.raises(RuntimeError, match="on fire"):
        run(source, tmp_path / "out", Averages(fail_at=1))
    with pytest.raises(RepaError, match="not finished"):
        verify(tmp_path / "out")


# Text


@pytest.fixture
def text_folder(tmp_path: Path, small_shards: None, picture: Callable[..., bytes]) -> Path:
    run(captioned_source(picture), tmp_path / "out", text_encoders=[Words()])
    return tmp_path / "out"


def test_whole_text_has_no_problems(text_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--verify", str(text_folder)]) == 0
    cut = "1 files skipped, 5 captions cut to 4 tokens; all 18 files are what"
    assert cut in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="on fire"):  # in the third shard
        extend(text_folder, None, {}, Work(3, 0), text_encoders=[Words(3, "more")])
    assert verify(text_folder)[1] == {}


def test_any_changed_byte_of_text_is_found(
    text_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["text.words.empty.npy"]
    for shard in ("00000", "00002", "00003"):
        files = ("captions.json", "text.starts.npy", "text.words.npy")
        names += [f"shards/{shard}/{file}" for file in files]
    for name in names:
        path = text_folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert verify(text_folder)[1] == {name: "other bytes than were written (SHA-256)"}
        path.unlink()
        assert verify(text_folder)[1] == {name: "missing"}
        path.write_bytes(whole)
    (text_folder / names[0]).unlink()
    assert main(["prepare", "--verify", str(text_folder)]) == 2
    assert "shards, or a file that lies in none, and run the same" in capsys.readouterr().err


def test_text_that_does_not_fit_the_manifest_is_found(text_folder: Path) -> None:
    """Even if someone entered its checksums."""
    shard = text_folder / "shards" / "00002"
    wrong = {"text.starts": np.arange(4), "text.words": np.zeros((3, 4, 3), np.float32)}
    for name, array in wrong.items():
        np.save(shard / f"{name}.npy", array)
    np.save(text_folder / "text.words.empty.npy", np.zeros((5, 3), np.float16))
    record, manifest = read_record(shard), read_manifest(text_folder)
    assert record is not None
    assert manifest is not None
    record.sha256.update({f"{name}.npy": checksum(shard / f"{name}.npy") for name in wrong})
    write_record(shard, record)
    manifest.shards[2] = record
    manifest.text["words"].empty_sha256 = checksum(text_folder / "text.words.empty.npy")
    write_manifest(text_folder, manifest)
    assert verify(text_folder)[1] == {
        "text.words.empty.npy": "float16 (5, 3); expected float16 (4, 3)",
        "shards/00002/text.starts.npy": "int64 (4,); expected int64 (5,)",
        "shards/00002/text.words.npy": "float32 (3, 4, 3); expected float16 (3, 4, 3)",
    }


def test_text_that_the_manifest_forgot_is_found(text_folder: Path) -> None:
    manifest = read_manifest(text_folder)
    assert manifest is not None
    del manifest.shards[0].sha256["text.words.npy"]
    write_manifest(text_folder, manifest)
    assert verify(text_folder)[1] == {"shards/00000/text.words.npy": "not in the manifest"}
