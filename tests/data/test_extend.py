"""Preparing in separate passes: latents and features that join a dataset later."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.preparing import Averages, run, snapshot
from repa.autoencoders import Autoencoder, create_autoencoder
from repa.data import PreparedDataset
from repa.data.arrays import checksum
from repa.data.prepare import extend
from repa.data.share import Work
from repa.data.sources import Source
from repa.encoders import Encoder
from repa.errors import RepaError

WORK = Work(batch_size=3, num_workers=0)
pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture(scope="module")
def vae(vae_dir: Path) -> Autoencoder:
    return create_autoencoder(str(vae_dir))


def add(dest: Path, *encoders: Encoder, vae: Autoencoder | None = None, **options: str) -> None:
    extend(dest, vae, {e.name: e for e in encoders}, WORK, **options)  # type: ignore[arg-type]


def test_separate_passes_end_with_the_files_of_a_single_one(
    tmp_path: Path, source: Source, vae: Autoencoder
) -> None:
    run(source, tmp_path / "whole", Averages(), Averages(name="means"), autoencoder=vae)
    out = tmp_path / "out"
    run(source, out)
    add(out, Averages(name="means"))
    add(out, vae=vae)
    add(out, Averages())
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_the_same_with_the_source_at_hand(tmp_path: Path, source: Source, vae: Autoencoder) -> None:
    run(source, tmp_path / "whole", Averages(), Averages(name="means"), autoencoder=vae)
    out = tmp_path / "out"
    run(source, out, Averages())
    run(source, out, Averages(name="means"), autoencoder=vae)
    assert snapshot(out) == snapshot(tmp_path / "whole")
    manifest = run(source, out)  # asks for less than there is
    assert set(manifest.features) == {"averages", "means"}
    assert snapshot(out) == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_a_dataset_stays_readable_while_features_join_it(
    tmp_path: Path, source: Source, fail_at: int
) -> None:
    out = tmp_path / "out"
    run(source, out, Averages(name="means"))
    with pytest.raises(RuntimeError, match="on fire"):
        add(out, Averages(fail_at))
    dataset = PreparedDataset(out)
    assert set(dataset[9]) == {"image", "label", "features.means"}
    with pytest.raises(RepaError, match="has unfinished features: add averages to --enc-type"):
        run(source, out)
    add(out, Averages())
    run(source, tmp_path / "whole", Averages(name="means"), Averages())
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_unfinished_latents_are_finished_by_the_same_autoencoder(
    tmp_path: Path, source: Source, vae: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(source, out)

    def fail(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("on fire")

    with monkeypatch.context() as patch:
        patch.setattr(vae, "encode", fail)
        with pytest.raises(RuntimeError, match="on fire"):
            add(out, vae=vae)
    with pytest.raises(RepaError, match="not finished"):
        PreparedDataset(out)
    with pytest.raises(RepaError, match="unfinished latents: give --autoencoder"):
        add(out, Averages())
    add(out, vae=vae)
    run(source, tmp_path / "whole", autoencoder=vae)
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_int8_features_are_stored_with_their_scales(tmp_path: Path, source: Source) -> None:
    for dtype in ("float16", "int8"):
        run(source, tmp_path / dtype, Averages(), feature_dtype=dtype)
    exact, packed = (PreparedDataset(tmp_path / dtype) for dtype in ("float16", "int8"))
    assert {key: (value.shape, value.dtype) for key, value in packed[0].items()} == {
        "image": ((3, 16, 16), np.uint8),
        "label": ((), np.int64),
        "features.averages": ((16, 3), np.int8),
        "features.averages.scale": ((16,), np.float32),
    }
    every = range(len(exact))
    one, other = (dataset.features("averages", every) for dataset in (exact, packed))
    assert one.dtype == other.dtype == torch.float32
    torch.testing.assert_close(one, other, rtol=0, atol=0.02)
    assert not torch.equal(one, other)


def test_features_of_other_weights_or_kind_are_refused(tmp_path: Path, source: Source) -> None:
    class Other(Averages):
        fingerprint = "0123456789abcdef"

    out = tmp_path / "out"
    run(source, out, Averages())
    before = snapshot(out)
    for wrong in (
        lambda: add(out, Other()),
        lambda: add(out, Averages(), feature_dtype="int8"),
        lambda: add(out, Averages(), precision="bf16"),
    ):
        with pytest.raises(RepaError, match=r"different: features.averages\)"):
            wrong()
        assert snapshot(out) == before


def test_another_autoencoder_is_refused(
    tmp_path: Path, source: Source, vae: Autoencoder, vae_dir: Path
) -> None:
    copy = Path(shutil.copytree(vae_dir, tmp_path / "vae"))
    out = tmp_path / "out"
    run(source, out, autoencoder=vae)
    before = snapshot(out)
    with pytest.raises(RepaError, match=r"different: autoencoder\)"):
        add(out, vae=create_autoencoder(str(copy)))
    assert snapshot(out) == before


def test_without_a_source_there_must_be_a_dataset(tmp_path: Path, source: Source) -> None:
    with pytest.raises(RepaError, match="no prepared dataset in .*; give --source"):
        add(tmp_path / "nowhere", Averages())
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="on fire"):
        run(source, out, Averages(fail_at=1))
    with pytest.raises(RepaError, match="lacks shards: run the same `repa prepare --source` again"):
        add(out, Averages())


def test_a_shard_that_was_deleted_is_made_anew(tmp_path: Path, source: Source) -> None:
    out = tmp_path / "out"
    run(source, out, Averages())
    before = snapshot(out)
    shutil.rmtree(out / "shards" / "00001")
    with pytest.raises(RepaError, match="lacks shards: run the same `repa prepare --source` again"):
        add(out, Averages(name="means"))
    run(source, out, Averages())
    assert snapshot(out) == before
    manifest = json.loads(before["manifest.json"])
    assert manifest["features"]["averages"]["weights"] == Averages().fingerprint


def test_a_missing_shard_never_makes_a_smaller_dataset(tmp_path: Path, source: Source) -> None:
    out = tmp_path / "out"
    run(source, out, Averages())
    before = snapshot(out)
    for gone in ("00000", "00002", "00003", ""):
        shutil.rmtree(out / "shards" / gone)
        with pytest.raises(RepaError, match="lacks shards: run the same .* --source"):
            add(out)
        with pytest.raises(RepaError, match="has unfinished features: add averages to --enc-type"):
            run(source, out)
        run(source, out, Averages())
        assert snapshot(out) == before


def test_a_shard_that_was_moved_is_not_counted(tmp_path: Path, source: Source) -> None:
    out = tmp_path / "out"
    run(source, out)
    before = snapshot(out)
    (out / "shards" / "00001").rename(out / "shards" / "00007")
    run(source, out)
    shutil.rmtree(out / "shards" / "00007")
    assert snapshot(out) == before


@pytest.mark.parametrize("damage", ["cut", "flip", "other length", "missing"])
def test_damaged_images_are_not_encoded(tmp_path: Path, source: Source, damage: str) -> None:
    out = tmp_path / "out"
    run(source, out)
    images = out / "shards" / "00001" / "images.npy"
    data = bytearray(images.read_bytes())
    data[-1] ^= 1
    if damage == "missing":
        images.unlink()
    elif damage == "other length":
        np.save(images, np.zeros((2, 3, 16, 16), np.uint8))
    else:
        images.write_bytes(data if damage == "flip" else data[:1000])
    with pytest.raises(RepaError, match=r"damaged dataset: .*00001/images.npy is not what was"):
        add(out, Averages())


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((2, 3, 16, 16), np.uint8),
        np.zeros((3, 3, 16), np.uint8),
        np.zeros((3, 3, 16, 16), np.float32),
        np.zeros((3, 3, 16, 16), np.uint8, "F"),
        np.array([{}] * 3, object),
    ],
    ids=["fewer", "flat", "floats", "another order", "objects"],
)
def test_images_of_another_form_are_not_encoded(
    tmp_path: Path, source: Source, other: np.ndarray
) -> None:
    """Whoever hands the dataset on can make the checksum fit, too."""
    out = tmp_path / "out"
    run(source, out)
    images = out / "shards" / "00001" / "images.npy"
    before = checksum(images)
    assert np.load(images).shape == (3, 3, 16, 16)
    np.save(images, other, allow_pickle=True)
    for file in out.rglob("*.json"):
        file.write_text(file.read_text().replace(before, checksum(images)))
    with pytest.raises(RepaError, match=r"damaged dataset: [^\n]*00001/images.npy: [^\n]+$"):
        add(out, Averages())
