"""Prepared datasets from anyone: read or refused in one line; nothing outside is touched."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliability.mutations import (
    bounded_memory,
    mutated,
    mutated_json,
    only_documented,
    unchanged,
)
from repa.data import open_dataset
from repa.data.arrays import checksum
from repa.data.format import CAPTIONS, MANIFEST, RECORD, shard_folder
from repa.data.text import STARTS, empty_text_file, text_array
from repa.data.verify import verify
from repa.errors import RepaError

pytestmark = pytest.mark.promise("5 untrusted files")

ENCODER, TEXT = "enc", "words/of a model"
COUNT, SIDE = 5, 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset with everything that there can be: two shards, features, captions, text."""
    folder = tmp_path_factory.mktemp("whole") / "dataset"
    shards = [_write_shard(shard_folder(folder, number), number) for number in range(2)]
    np.save(folder / empty_text_file(TEXT), np.zeros((3, 4), np.float16))
    manifest = {
        "format": "repa-dataset",
        "version": 1,
        "source": {"name": "x", "items": 2 * COUNT + 2, "fingerprint": "0"},
        "resolution": SIDE,
        "autoencoder": {"name": "vae", "scale": 0.5, "shift": 0.0, "latent_shape": [2, 1, 1]},
        "features": {ENCODER: {"grid_size": 2, "dim": 3, "dtype": "int8"}},
        "text": {
            TEXT: {
                "length": 3,
                "dim": 4,
                "mask_padding": True,
                "empty_sha256": checksum(folder / empty_text_file(TEXT)),
            }
        },
        "classes": ["a", "b"],
        "has_captions": True,
        "shard_items": COUNT + 1,
        "shards": shards,
        "complete": True,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert verify(folder)[1] == {}
    return folder


def _write_shard(shard: Path, seed: int) -> dict[str, Any]:
    """Writes a shard; its record."""
    shard.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    arrays = {
        "images": rng.integers(0, 256, (COUNT, 3, SIDE, SIDE), np.uint8),
        "labels": np.arange(COUNT) % 2,
        "latents": rng.normal(size=(COUNT, 4, 1, 1)).astype(np.float32),
        f"features.{ENCODER}": np.zeros((COUNT, 4, 3), np.int8),
        f"features.{ENCODER}.scale": np.ones((COUNT, 4), np.float32),
        STARTS: np.arange(COUNT + 1),
        text_array(TEXT): np.zeros((COUNT, 3, 4), np.float16),
    }
    for name, array in arrays.items():
        np.save(shard / f"{name}.npy", array)
    (shard / CAPTIONS).write_text(json.dumps([[f"caption {i}"] for i in range(COUNT)]))
    record = {
        "name": shard.name,
        "images": COUNT,
        "skipped": {"broken.png": "OSError"},
        "sha256": {path.name: checksum(path) for path in sorted(shard.iterdir())},
        "truncated": {TEXT: 0},
    }
    (shard / RECORD).write_text(json.dumps(record))
    return record


def read_all(folder: Path) -> None:
    """Everything that training and measuring read of a dataset."""
    dataset = open_dataset(folder)
    indices = range(min(len(dataset), 2 * COUNT))
    dataset.labels  # noqa: B018
    for index in indices:
        dataset[index]
        assert all(isinstance(caption, str) for caption in dataset.captions(index))
    for name in dataset.manifest.text:
        dataset.read_text(name, indices, [0.5] * len(indices))
        dataset.empty_text(name)
    for name in dataset.manifest.features:
        dataset.features(name, indices)  # type: ignore[union-attr]


def tried(folder: Path) -> None:
    """Reads and verifies a dataset; what comes of either."""
    with unchanged(folder.parent):
        with only_documented():
            read_all(folder)
        with only_documented():
            verify(folder)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, beside a file that is none of its own."""
    shutil.copytree(whole, tmp_path / "dataset")
    np.save(tmp_path / "secret.npy", np.arange(3))
    return tmp_path / "dataset"


@given(data=st.data())
def test_any_manifest_is_a_dataset_or_one_line(
    data: st.DataObject, folder: Path, whole: Path, survived: Callable[[], None]
) -> None:
    name = data.draw(
        st.sampled_from([MANIFEST, f"shards/00000/{RECORD}", "shards/00001/captions.json"])
    )
    original = (whole / name).read_bytes()
    changes = mutated_json(json.loads(original)) | mutated(original) | st.binary(max_size=50)
    (folder / name).write_bytes(data.draw(changes))
    tried(folder)
    (folder / name).write_bytes(original)
    survived()


@given(data=st.data())
def test_any_array_is_read_or_one_line(
    data: st.DataObject, folder: Path, whole: Path, survived: Callable[[], None]
) -> None:
    paths = sorted(path.relative_to(whole) for path in whole.rglob("*.npy"))
    name = data.draw(st.sampled_from(paths))
    original = (whole / name).read_bytes()
    (folder / name).write_bytes(data.draw(mutated(original) | st.binary(max_size=50)))
    tried(folder)
    (folder / name).write_bytes(original)
    survived()


def change(folder: Path, **values: Any) -> None:
    """Writes other values into the manifest; those of `shard` into its first shard."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["shards"][0] |= values.pop("shard", {})
    (folder / MANIFEST).write_text(json.dumps(manifest | values))


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a file elsewhere": ({"shard": {"sha256": {"../../../secret.npy": "0"}}}, "shards.0.sha256"),
    "a device": ({"shard": {"sha256": {"/dev/zero": "0"}}}, "shards.0.sha256"),
    "features elsewhere": ({"features": {"../x": {"grid_size": 1, "dim": 1}}}, "features"),
    "absurd count": ({"shard": {"images": 10**30}}, "shards.0.images: Input should be less"),
    "negative count": ({"shard": {"images": -1}}, "shards.0.images"),
    "absurd size": ({"resolution": 2**40}, "resolution"),
    "not finite": ({"autoencoder": {"name": "x", "scale": float("inf"), "latent_shape": [1, 1, 1]}},
                   "autoencoder.scale: Input should be a finite number"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_manifest_is_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    change(folder, **values)
    for read in (open_dataset, verify):
        with pytest.raises(RepaError, match=f"is not a valid manifest at {message}"):
            read(folder)


@pytest.mark.parametrize(
    "name",
    [MANIFEST, "shards/00000/images.npy", "shards/00000/captions.json", f"shards/00000/{RECORD}"],
)
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    tried(folder)


def test_a_deeply_nested_manifest_is_refused(folder: Path) -> None:
    for name in (MANIFEST, "shards/00000/captions.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_text("[" * 100_000 + "]" * 100_000)
        with pytest.raises(RepaError, match="recursion limit"):
            read_all(folder)
        (folder / name).write_bytes(content)


def test_labels_beyond_the_classes_are_refused(folder: Path) -> None:
    np.save(folder / "shards/00000/labels.npy", np.array([0, 1, 2, 0, 0]))
    with pytest.raises(RepaError, match="label 2; expected 0 to 1"):
        open_dataset(folder).labels  # noqa: B018


def test_an_array_of_objects_is_refused(folder: Path, tmp_path: Path) -> None:
    class Opens:
        def __reduce__(self) -> tuple:
            return open, (str(tmp_path / "run"), "w")

    objects = np.array([Opens()] * COUNT, dtype=object)
    np.save(folder / "shards/00000/labels.npy", objects, allow_pickle=True)
    with pytest.raises(RepaError, match="damaged dataset"):
        open_dataset(folder).labels  # noqa: B018
    assert not (tmp_path / "run").exists()


def test_a_header_that_claims_terabytes_takes_no_memory(folder: Path) -> None:
    path = folder / "shards/00000/images.npy"
    header = path.read_bytes()[:128].replace(b"(5, 3,", b"(5000000000, 3,")
    path.write_bytes(header + path.read_bytes()[128:])
    with pytest.raises(RepaError, match="damaged dataset"), bounded_memory(1 << 28):
        read_all(folder)
