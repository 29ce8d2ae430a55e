import hashlib
import json
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tqdm import tqdm

from data.preparing import Averages, run, snapshot
from repa.autoencoders import create_autoencoder
from repa.data import PreparedDataset
from repa.data.features import FEATURES
from repa.data.format import read_record
from repa.data.images import center_crop, decode_image
from repa.data.sources import Item, Source, open_source
from repa.encoders import create_encoder
from repa.errors import RepaError

Write = Callable[[Path, dict[str, bytes]], Path]
SMALL_SHARDS = 4


def good_items(source: Source) -> list[int]:
    """Items that the `mixed_files` fixture made as good images."""
    broken = ("broken.jpg", "empty.png", "notes.txt")
    return [i for i, item in enumerate(source.items) if not item.name.endswith(broken)]


# What is written


def test_good_images_are_cropped_and_broken_ones_skipped(
    tmp_path: Path, source: Source, capfd: pytest.CaptureFixture[str], small_shards: None
) -> None:
    manifest = run(source, tmp_path / "out")
    assert (manifest.num_images, manifest.num_skipped, len(manifest.shards)) == (10, 3, 4)
    skipped = {k: v for shard in manifest.shards for k, v in shard.skipped.items()}
    assert skipped.keys() == {"a/broken.jpg", "b/empty.png", "c/notes.txt"}
    assert skipped["c/notes.txt"] == "UnidentifiedImageError: not an image"
    assert "truncated" in skipped["a/broken.jpg"]
    warnings = [line for line in capfd.readouterr().err.splitlines() if "warning: skipped" in line]
    assert len(warnings) == 3

    dataset = PreparedDataset(tmp_path / "out")
    assert dataset.manifest == manifest
    assert len(dataset) == 10
    for index, item in enumerate(good_items(source)):
        pixels = center_crop(decode_image(source.read(item)), 16)
        np.testing.assert_array_equal(dataset[index]["image"], pixels.transpose(2, 0, 1))
        assert dataset[index]["label"] == source.items[item].label
    assert dataset.manifest.classes == ["a", "b", "c"]


def test_the_manifest_has_the_checksums_of_all_files(tmp_path: Path, source: Source) -> None:
    manifest = run(source, tmp_path / "out", Averages())
    [shard] = manifest.shards
    folder = tmp_path / "out" / "shards" / shard.name
    files = [path for path in folder.iterdir() if path.name != "shard.json"]
    assert shard.sha256 == {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    assert read_record(folder) == shard
    assert shard.sha256.keys() == {"images.npy", "labels.npy", f"{FEATURES}averages.npy"}
    assert {p.split("/")[0] for p in snapshot(tmp_path / "out")} == {"manifest.json", "shards"}


def test_workers_and_batch_size_change_nothing(tmp_path: Path, source: Source) -> None:
    run(source, tmp_path / "one")
    run(source, tmp_path / "other", num_workers=2, batch_size=64)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "other")


def test_a_zip_is_prepared_like_its_folder(
    tmp_path: Path, source: Source, write_zip: Write, mixed_files: dict[str, bytes]
) -> None:
    archive = open_source(str(write_zip(tmp_path / "pictures.zip", mixed_files)))
    run(source, tmp_path / "one")
    run(archive, tmp_path / "other", num_workers=2)
    one, other = snapshot(tmp_path / "one"), snapshot(tmp_path / "other")
    del one["manifest.json"], other["manifest.json"]  # names of the sources
    assert one == other


def test_cached_features_are_the_encoders_output(tmp_path: Path) -> None:
    encoder = create_encoder("efficientnet-lite0", 32, grid_size=4)
    run(open_source("twemoji"), tmp_path / "out", encoder, resolution=32, max_images=5)
    dataset = PreparedDataset(tmp_path / "out")
    record = dataset.manifest.features["efficientnet-lite0"]
    assert (record.grid_size, record.dim) == (4, 112)
    cached = np.stack([dataset[i]["features.efficientnet-lite0"] for i in range(5)])
    assert cached.dtype == np.float16
    tokens = encoder(torch.from_numpy(dataset.images(range(5))))
    np.testing.assert_allclose(cached, tokens.numpy(), rtol=1e-3, atol=1e-3)


def test_cached_latents_are_the_autoencoders_moments(
    tmp_path: Path, source: Source, vae_dir: Path
) -> None:
    autoencoder = create_autoencoder(str(vae_dir))
    manifest = run(source, tmp_path / "out", autoencoder=autoencoder, batch_size=64)
    assert manifest.autoencoder.latent_shape == (4, 8, 8)
    assert manifest.autoencoder.scale == 0.25
    dataset = PreparedDataset(tmp_path / "out")
    latents = np.stack([dataset[i]["latent"] for i in range(len(dataset))])
    assert latents.shape == (10, 8, 8, 8)
    moments = autoencoder.encode(torch.from_numpy(dataset.images(range(10))))
    assert moments is not None
    np.testing.assert_allclose(latents, moments.numpy(), rtol=1e-5, atol=1e-6)
    assert (latents[:, 4:] > 0).all()


def test_captions_stay_with_their_images(tmp_path: Path, small_shards: None) -> None:
    source = open_source("twemoji")
    run(source, tmp_path / "out", max_images=9)
    dataset = PreparedDataset(tmp_path / "out")
    chosen = [source.items[i * len(source.items) // 9] for i in range(9)]
    assert [dataset.captions(i) for i in range(9)] == [list(item.captions) for item in chosen]
    assert dataset.labels.tolist() == [item.label for item in chosen]


def test_a_shard_without_captions_among_others_with_them(
    tmp_path: Path, picture: Callable[..., bytes], small_shards: None
) -> None:
    items = [Item(str(i), 0, ("a \N{SNOWMAN}", "b") if i >= 4 else ()) for i in range(6)]
    run(Source("own", items, ["all"], lambda name: picture(int(name))), tmp_path / "out")
    dataset = PreparedDataset(tmp_path / "out")
    assert dataset.captions(0) == []
    assert dataset.captions(5) == ["a \N{SNOWMAN}", "b"]


def test_max_images_spreads_over_the_classes(
    tmp_path: Path, write_folder: Write, picture: Callable[..., bytes]
) -> None:
    files = {f"{c}/{i}.png": picture(i) for c in "abcd" for i in range(10)}
    source = open_source(str(write_folder(tmp_path / "pictures", files)))
    for count in (4, 7, 8, 39, 40, 1000):
        run(source, tmp_path / str(count), max_images=count)
        dataset = PreparedDataset(tmp_path / str(count))
        assert len(dataset) == min(count, 40)
        per_class = Counter(dataset.labels.tolist())
        assert len(per_class) == 4
        assert max(per_class.values()) - min(per_class.values()) <= 1


def test_names_that_are_not_unicode_can_be_prepared(
    tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    folder = os.fsencode(tmp_path) + b"/pictures/caf\xe9"
    os.makedirs(folder)
    for name, data in ((b"/\xff.png", picture(0)), (b"/\xfe.png", b"broken")):
        with open(folder + name, "wb") as file:
            file.write(data)
    run(open_source(str(tmp_path / "pictures")), tmp_path / "out")
    manifest = PreparedDataset(tmp_path / "out").manifest
    assert manifest.classes == ["caf\\udce9"]
    assert manifest.shards[0].skipped.keys() == {"caf\\udce9/\\udcfe.png"}


def test_progress_bars_may_be_switched_off(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disabled(tqdm):  # as with TQDM_DISABLE=1
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **(options | {"disable": True}))

    monkeypatch.setattr("repa.data.share.tqdm", Disabled)
    run(source, tmp_path / "out")
    assert len(PreparedDataset(tmp_path / "out")) == 10


# What is refused


def other_settings(tmp_path: Path, source: Source, write_folder: Write) -> dict:
    other = write_folder(tmp_path / "other", {"a/0.png": b"", "b/1.png": b""})
    return {
        "resolution": lambda out: run(source, out, resolution=8),
        "source": lambda out: run(open_source(str(other)), out),
        "max_images": lambda out: run(source, out, max_images=5),
    }


@pytest.mark.parametrize("finished", [True, False])
def test_a_dataset_of_other_settings_is_refused_and_not_changed(
    tmp_path: Path, source: Source, write_folder: Write, finished: bool
) -> None:
    out = tmp_path / "out"
    run(source, out)
    if not finished:
        manifest = json.loads((out / "manifest.json").read_text())
        (out / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    before = snapshot(out)
    for key, rerun in other_settings(tmp_path, source, write_folder).items():
        with pytest.raises(RepaError, match=rf"another source or settings \(different: .*{key}"):
            rerun(out)
        assert snapshot(out) == before


def test_a_folder_of_other_files_is_refused_and_not_changed(tmp_path: Path, source: Source) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_bytes(b"years of work")
    with pytest.raises(RepaError, match="exists and is not a prepared dataset; choose another"):
        run(source, out)
    assert snapshot(out) == {"thesis.tex": b"years of work"}
    with pytest.raises(RepaError, match="exists and is not a prepared dataset"):
        run(source, out / "thesis.tex")
    with pytest.raises(RepaError, match="cannot write to --dest"):
        run(source, out / "thesis.tex" / "out")
    assert snapshot(out) == {"thesis.tex": b"years of work"}


def test_a_foreign_manifest_is_refused_and_not_changed(tmp_path: Path, source: Source) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_bytes(b'{"name": "a web application"}')
    with pytest.raises(RepaError, match="not a valid manifest"):
        run(source, out)
    assert snapshot(out) == {"manifest.json": b'{"name": "a web application"}'}


def test_an_empty_folder_is_used(tmp_path: Path, source: Source) -> None:
    (tmp_path / "out").mkdir()
    assert run(source, tmp_path / "out").complete


@pytest.mark.parametrize("existed", [False, True])
def test_only_broken_images_are_an_error_and_leave_nothing(
    tmp_path: Path, write_folder: Write, picture: Callable[..., bytes], existed: bool
) -> None:
    files = {"a/0.png": b"", "a/1.txt": b"text", "b/2.png": picture(0)[:100]}
    source = open_source(str(write_folder(tmp_path / "pictures", files)))
    out = tmp_path / "out"
    if existed:
        out.mkdir()
    with pytest.raises(RepaError, match="no image in pictures: none of its 3 files"):
        run(source, out)
    assert out.exists() == existed
    assert not snapshot(out)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_that_disappears_stops_the_run(
    tmp_path: Path, write_zip: Write, mixed_files: dict[str, bytes], workers: int
) -> None:
    path = write_zip(tmp_path / "pictures.zip", mixed_files)
    source = open_source(str(path))
    source = pickle.loads(pickle.dumps(source))  # which does not hold the file open
    path.unlink()
    with pytest.raises(RepaError, match=r"^cannot read .*pictures.zip") as error:
        run(source, tmp_path / "out", num_workers=workers)
    assert "\n" not in str(error.value)
    write_zip(path, mixed_files)
    assert run(source, tmp_path / "out").num_images == 10


def test_a_folder_that_disappears_stops_the_run(tmp_path: Path, source: Source) -> None:
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    with pytest.raises(RepaError, match=r"^cannot read .*pictures"):
        run(source, tmp_path / "out")


def test_a_single_file_that_disappears_is_skipped(tmp_path: Path, source: Source) -> None:
    (tmp_path / "pictures" / "a" / "00.png").unlink()
    manifest = run(source, tmp_path / "out")
    assert (manifest.num_images, manifest.num_skipped) == (9, 4)


def test_a_damaged_member_of_a_zip_is_skipped(
    tmp_path: Path, write_zip: Write, mixed_files: dict[str, bytes]
) -> None:
    path = write_zip(tmp_path / "pictures.zip", mixed_files)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("a/03.png").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 300] ^= 1
    path.write_bytes(data)
    manifest = run(open_source(str(path)), tmp_path / "out", num_workers=2)
    assert (manifest.num_images, manifest.num_skipped) == (9, 4)
    assert "a/03.png" in manifest.shards[0].skipped
