import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from repa.autoencoders import Pixels, create_autoencoder
from repa.data import PreparedDataset
from repa.data.format import FEATURES, Manifest, checksums
from repa.data.images import center_crop, decode_image
from repa.data.prepare import prepare
from repa.data.sources import Item, Source, open_source
from repa.encoders import Encoder, create_encoder
from repa.errors import RepaError

Write = Callable[[Path, dict[str, bytes]], Path]
SMALL_SHARDS = 4


class Averages(Encoder):
    """A stand-in for an encoder that costs nothing: averages of 4x4 patches."""

    def __init__(self, fail_at: int = -1):
        super().__init__("averages", nn.Identity(), 3, 16, 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.fail_at, self.calls = fail_at, 0

    def tokens(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("the machine is on fire")
        return nn.functional.avg_pool2d(pixels, 4).flatten(2).transpose(1, 2)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repa.data.prepare.SHARD_ITEMS", SMALL_SHARDS)


@pytest.fixture
def source(tmp_path: Path, write_folder: Write, mixed_files: dict[str, bytes]) -> Source:
    return open_source(str(write_folder(tmp_path / "pictures", mixed_files)))


def run(source: Source, dest: Path, encoder: Encoder | None = None, **options: object) -> Manifest:
    encoders = {} if encoder is None else {encoder.name: encoder}
    arguments = {"resolution": 16, "autoencoder": Pixels(), "batch_size": 3, "num_workers": 0}
    return prepare(source, dest, encoders=encoders, **(arguments | options))  # type: ignore[arg-type]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


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
    assert shard.sha256 == checksums(tmp_path / "out" / "shards" / shard.name)
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
            super().__init__(*arguments, disable=True, **options)

    monkeypatch.setattr("repa.data.prepare.tqdm", Disabled)
    run(source, tmp_path / "out")
    assert len(PreparedDataset(tmp_path / "out")) == 10


# Stopping and going on


@pytest.fixture
def whole(tmp_path: Path, source: Source, small_shards: None) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    run(source, tmp_path / "whole", Averages())
    return snapshot(tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fail_at", [1, 2, 3, 4, 5, 6])
def test_an_interrupted_run_goes_on_to_the_same_files(
    tmp_path: Path, source: Source, whole: dict[str, bytes], fail_at: int, workers: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="on fire"):
        run(source, out, Averages(fail_at), num_workers=workers)
    with pytest.raises(RepaError, match="not finished: run the same"):
        PreparedDataset(out)
    encoder = Averages()
    run(source, out, encoder, num_workers=workers)
    assert snapshot(out) == whole
    assert encoder.calls == 6 - (fail_at - 1) // 2 * 2  # two a shard, whole ones not again


class Crash(BaseException):
    """What no code expects, like the end of a process."""


def test_a_crash_before_any_step_of_writing_leaves_what_can_go_on(
    tmp_path: Path, source: Source, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    countdown = 0

    def crashing(function: Callable) -> Callable:
        def wrapped(*arguments: object, **options: object) -> object:
            nonlocal countdown
            countdown -= 1
            if countdown == 0:
                raise Crash
            return function(*arguments, **options)

        return wrapped

    for name in ("mkdir", "rename", "replace"):
        monkeypatch.setattr(Path, name, crashing(getattr(Path, name)))
    monkeypatch.setattr(os, "fsync", crashing(os.fsync))
    monkeypatch.setattr("shutil.rmtree", crashing(shutil.rmtree))

    crashes, finished = 0, False
    while not finished:
        out = tmp_path / f"out{crashes}"
        countdown = crashes + 1
        try:
            run(source, out, Averages())
            finished = True
        except Crash:
            crashes += 1
        countdown = 0
        run(source, out, Averages())
        assert snapshot(out) == whole, f"after a crash before step {crashes}"
    assert crashes > 30


def test_a_killed_process_leaves_what_can_go_on(
    tmp_path: Path, source: Source, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    script = f"""
import sys, time
from pathlib import Path
import repa.data.prepare
from repa.autoencoders import Pixels
from repa.data.sources import open_source
from repa.encoders import Encoder
from torch import nn

class Averages(Encoder):
    calls = 0
    def tokens(self, pixels):
        self.calls += 1
        if self.calls == 4:
            Path("reached").touch()
            time.sleep(600)
        return nn.functional.avg_pool2d(pixels, 4).flatten(2).transpose(1, 2)

repa.data.prepare.SHARD_ITEMS = {SMALL_SHARDS}
encoder = Averages("averages", nn.Identity(), 3, 16, 4, (0.5,) * 3, (0.5,) * 3)
source = open_source("pictures")
repa.data.prepare.prepare(
    source, Path("out"), 16, Pixels(), {{"averages": encoder}}, batch_size=3, num_workers=0
)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    try:
        while not (tmp_path / "reached").exists():
            assert process.poll() is None, "the process ended by itself"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    manifest = json.loads((out / "manifest.json").read_text())
    assert not manifest["complete"]
    assert manifest["shards"], "killed too early to test anything"
    run(source, out, Averages())
    assert snapshot(out) == whole


def test_leftovers_of_a_killed_write_are_replaced(
    tmp_path: Path, source: Source, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="on fire"):
        run(source, out, Averages(fail_at=4))
    for name in ("00001.partial", "00001"):  # the latter renamed, but not yet in the manifest
        (out / "shards" / name).mkdir()
        (out / "shards" / name / "images.npy").write_bytes(b"half")
    (out / "manifest.json.partial").write_bytes(b"{")
    run(source, out, Averages())
    assert snapshot(out) == whole


def test_a_finished_dataset_is_left_alone(tmp_path: Path, source: Source) -> None:
    out = tmp_path / "out"
    first = run(source, out, Averages())
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    encoder = Averages(fail_at=1)
    assert run(source, out, encoder) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert encoder.calls == 0


# What is refused


def other_settings(tmp_path: Path, source: Source, write_folder: Write, vae_dir: Path) -> dict:
    other = write_folder(tmp_path / "other", {"a/0.png": b"", "b/1.png": b""})
    return {
        "resolution": lambda out: run(source, out, resolution=8),
        "source": lambda out: run(open_source(str(other)), out),
        "features": lambda out: run(source, out, Averages()),
        "max_images": lambda out: run(source, out, max_images=5),
        "autoencoder": lambda out: run(source, out, autoencoder=create_autoencoder(str(vae_dir))),
    }


@pytest.mark.parametrize("finished", [True, False])
def test_a_dataset_of_other_settings_is_refused_and_not_changed(
    tmp_path: Path, source: Source, write_folder: Write, vae_dir: Path, finished: bool
) -> None:
    out = tmp_path / "out"
    run(source, out)
    if not finished:
        manifest = json.loads((out / "manifest.json").read_text())
        (out / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    before = snapshot(out)
    for key, rerun in other_settings(tmp_path, source, write_folder, vae_dir).items():
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
