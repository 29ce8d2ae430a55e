import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from repa.autoencoders import create_autoencoder
from repa.data import PreparedDataset
from repa.data.format import MAX_FILE
from repa.data.images import center_crop, decode_image
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import open_source
from repa.errors import RepaError

# Shards of four items; the second one and the last have no image.
GOOD = [0, 1, 3, 8, 9, 10, 12, 13]
ITEMS = 17


@pytest.fixture(scope="module")
def files(picture: Callable[..., bytes]) -> dict[str, bytes]:
    return {f"{'ab'[i > 9]}/{i:02d}.png": picture(i) if i in GOOD else b"" for i in range(ITEMS)}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    write_folder: Callable[[Path, dict[str, bytes]], Path],
    files: dict[str, bytes],
    vae_dir: Path,
) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    source = open_source(str(write_folder(root / "pictures", files)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repa.data.prepare.SHARD_ITEMS", 4)
        autoencoder = create_autoencoder(str(vae_dir))
        manifest = prepare(source, root / "out", 16, autoencoder, {}, work=Work(num_workers=0))
    assert [shard.images for shard in manifest.shards] == [3, 0, 3, 2, 0]
    return root / "out"


@pytest.fixture
def copy(tmp_path: Path, folder: Path) -> Path:
    """A dataset to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_manifest(folder: Path, edit: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_every_image_is_found_across_shards(folder: Path, files: dict[str, bytes]) -> None:
    dataset = PreparedDataset(folder)
    assert len(dataset) == len(GOOD)
    originals = [files[f"{'ab'[i > 9]}/{i:02d}.png"] for i in GOOD]
    for index, data in enumerate(originals):
        pixels = center_crop(decode_image(data), 16).transpose(2, 0, 1)
        np.testing.assert_array_equal(dataset[index]["image"], pixels)
    assert dataset.labels.tolist() == [int(i > 9) for i in GOOD]
    assert dataset.labels.dtype == np.int64
    assert dataset.num_classes == 2
    assert [int(item["label"]) for item in dataset] == dataset.labels.tolist()


def test_shapes_and_types_are_the_documented_ones(folder: Path) -> None:
    item = PreparedDataset(folder)[4]
    assert {key: (value.shape, value.dtype) for key, value in item.items()} == {
        "image": ((3, 16, 16), np.uint8),
        "label": ((), np.int64),
        "latent": ((8, 8, 8), np.float32),
    }


def test_images_gathers_in_the_order_asked_for(folder: Path) -> None:
    dataset = PreparedDataset(folder)
    gathered = dataset.images([5, 0, 3])
    assert gathered.shape == (3, 3, 16, 16)
    for row, index in zip(gathered, [5, 0, 3], strict=True):
        np.testing.assert_array_equal(row, dataset[index]["image"])


@pytest.mark.parametrize("index", [-1, len(GOOD), 10**9])
def test_an_index_outside_is_an_error(folder: Path, index: int) -> None:
    with pytest.raises(IndexError, match=f"image {index} of 8"):
        PreparedDataset(folder)[index]


def test_a_source_without_captions_has_none(folder: Path) -> None:
    assert PreparedDataset(folder).captions(7) == []


def test_it_can_be_sent_to_another_process(folder: Path) -> None:
    dataset = PreparedDataset(folder)
    dataset[0]
    data = pickle.dumps(dataset)
    assert len(data) < 10_000  # not the arrays
    np.testing.assert_array_equal(pickle.loads(data)[3]["image"], dataset[3]["image"])


def test_workers_read_what_the_process_itself_reads(folder: Path) -> None:
    dataset = PreparedDataset(folder)
    for workers in (1, 2):
        loader = DataLoader(dataset, batch_size=3, num_workers=workers, collate_fn=list)
        items = [item for batch in loader for item in batch]
        assert len(items) == len(dataset)
        for index, item in enumerate(items):
            np.testing.assert_array_equal(item["image"], dataset[index]["image"])


def test_arrays_are_mapped_and_cannot_be_changed(folder: Path) -> None:
    image = PreparedDataset(folder)[0]["image"]
    with pytest.raises(ValueError, match="read-only"):
        image[:] = 0
    assert not image.flags.owndata


def test_no_file_stays_open(folder: Path) -> None:
    dataset = PreparedDataset(folder)
    before = len(os.listdir("/proc/self/fd"))
    for item in dataset:
        item["image"].sum()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("missing", ["nothing", "manifest.json"])
def test_no_dataset_there(tmp_path: Path, copy: Path, missing: str) -> None:
    (copy / "manifest.json").unlink()
    for folder in (copy, tmp_path / "nowhere"):
        with pytest.raises(RepaError, match="no prepared dataset in .*: make one with `repa prep"):
            PreparedDataset(folder)


def test_a_dataset_that_is_not_finished(copy: Path) -> None:
    edit_manifest(copy, lambda manifest: manifest.update(complete=False))
    with pytest.raises(RepaError, match="is not finished: run the same `repa prepare` again"):
        PreparedDataset(copy)


def test_a_damaged_manifest_is_one_clear_line(copy: Path) -> None:
    whole = (copy / "manifest.json").read_bytes()
    variants = [whole[:length] for length in range(0, len(whole) - 2, 41)]
    variants += [b"[]", b"null", b"\xff\xfe", whole.replace(b'"version": 1', b'"version": 2')]
    variants += [whole.replace(b'"resolution": 16', b'"resolution": -1'), b'{"format": "zip"}']
    for data in variants:
        (copy / "manifest.json").write_bytes(data)
        with pytest.raises(RepaError, match=r"manifest.json is not a valid manifest[^\n]*$"):
            PreparedDataset(copy)
    (copy / "manifest.json").unlink()
    (copy / "manifest.json").mkdir()
    with pytest.raises(RepaError, match=r"cannot read .*manifest.json"):
        PreparedDataset(copy)


def test_a_manifest_without_images_is_damaged(copy: Path) -> None:
    edit_manifest(copy, lambda manifest: manifest.update(shards=[]))
    with pytest.raises(RepaError, match="damaged dataset: .*no images"):
        PreparedDataset(copy)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "latents.npy"])
def test_a_missing_array_is_one_clear_line(copy: Path, name: str) -> None:
    (copy / "shards" / "00002" / name).unlink()
    dataset = PreparedDataset(copy)
    dataset[0]  # the first shard is whole
    with pytest.raises(RepaError, match=rf"damaged dataset: [^\n]*00002[^\n]*{name}"):
        dataset[3]


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "latents.npy"])
def test_a_truncated_array_is_one_clear_line(copy: Path, name: str) -> None:
    path = copy / "shards" / "00000" / name
    whole = path.read_bytes()
    for length in (0, 1, 5, 8, 60, 127, 128, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RepaError, match=r"^damaged dataset: [^\n]*00000[^\n]*$"):
            PreparedDataset(copy)[0]


def test_an_array_of_another_length_is_refused_each_time(copy: Path) -> None:
    np.save(copy / "shards" / "00000" / "labels.npy", np.zeros(2, np.int64))
    dataset = PreparedDataset(copy)
    for _ in range(2):
        with pytest.raises(RepaError, match=r"labels is int64 \(2,\); expected int64 \(3,\)"):
            dataset[0]


def test_a_pickle_in_an_array_is_refused_and_not_run(tmp_path: Path, copy: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was-run"),)

    np.save(copy / "shards" / "00000" / "labels.npy", np.array([Poison()] * 3), allow_pickle=True)
    with pytest.raises(RepaError, match="damaged dataset"):
        PreparedDataset(copy)[0]
    (copy / "shards" / "00000" / "labels.npy").write_bytes(pickle.dumps(Poison()))
    with pytest.raises(RepaError, match="damaged dataset"):
        PreparedDataset(copy)[0]
    assert not (tmp_path / "was-run").exists()


def test_damaged_captions_are_one_clear_line(copy: Path) -> None:
    record = {"captions.json": ""}
    edit_manifest(copy, lambda manifest: manifest["shards"][0]["sha256"].update(record))
    dataset = PreparedDataset(copy)
    for data in (None, b"[", b"[[]]", b"\xff"):
        if data is not None:
            (copy / "shards" / "00000" / "captions.json").write_bytes(data)
        with pytest.raises(RepaError, match=r"damaged dataset: .*captions.json"):
            dataset.captions(2)


def test_a_manifest_of_gigabytes_is_not_read(copy: Path) -> None:
    os.truncate(copy / "manifest.json", MAX_FILE + 1)
    with pytest.raises(RepaError, match=r"^cannot read .*manifest\.json: \d+ bytes; expected at"):
        PreparedDataset(copy)
