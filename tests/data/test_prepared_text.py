"""Reading the text of prepared datasets."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.preparing import Words, captioned_source, run, snapshot
from repa.data import PreparedDataset
from repa.data.format import read_manifest
from repa.data.prepare import extend
from repa.data.share import Work
from repa.data.sources import Source
from repa.errors import RepaError

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def captioned(picture: Callable[..., bytes]) -> Source:
    return captioned_source(picture)


def test_an_image_without_captions_gives_the_empty_one(tmp_path: Path, captioned: Source) -> None:
    run(captioned, tmp_path / "out", text_encoders=[Words()])
    dataset = PreparedDataset(tmp_path / "out")
    empty = dataset.empty_text("words")
    assert (empty.shape, empty.dtype) == ((4, 3), np.float16)
    np.testing.assert_array_equal(empty, Words()([""])[0].numpy())
    assert empty.any()
    read = dataset.read_text("words", [0, 3, 7, 2], [0.9, 0, 0.5, 0])  # the second shard has none
    np.testing.assert_array_equal(read[:3], np.stack([empty] * 3))
    assert not np.array_equal(read[3], empty)
    assert {p.name for p in (tmp_path / "out" / "shards" / "00001").iterdir()} == {
        "images.npy",
        "labels.npy",
        "shard.json",
    }


def test_a_dataset_of_before_there_was_text_is_readable(tmp_path: Path, captioned: Source) -> None:
    out = tmp_path / "out"
    run(captioned, out)
    manifest = json.loads((out / "manifest.json").read_bytes())
    del manifest["text"], manifest["unfinished_text"]
    for record in [manifest, *manifest["shards"]]:
        record.pop("truncated", None)
    (out / "manifest.json").write_text(json.dumps(manifest))
    for shard in (out / "shards").iterdir():
        record = json.loads((shard / "shard.json").read_bytes())
        del record["truncated"]
        (shard / "shard.json").write_text(json.dumps(record))
    found = read_manifest(out)
    assert found is not None
    assert found.text == {}
    extend(out, None, {}, Work(3, 0), text_encoders=[Words()])
    run(captioned, tmp_path / "whole", text_encoders=[Words()])
    assert snapshot(out)["manifest.json"] == snapshot(tmp_path / "whole")["manifest.json"]


def _edit_array(path: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(path, edit(np.load(path)))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("text.words.npy", Path.unlink),
        ("text.words.npy", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("text.words.npy", lambda path: _edit_array(path, lambda a: a[:-1])),
        ("text.words.npy", lambda path: _edit_array(path, lambda a: a.astype(np.float32))),
        ("text.words.npy", lambda path: _edit_array(path, lambda a: a[..., :2])),
        ("text.starts.npy", Path.unlink),
        ("text.starts.npy", lambda path: _edit_array(path, lambda a: a[:-1])),
        ("text.starts.npy", lambda path: _edit_array(path, lambda a: a[[0, 2, 1, 3, 4]])),
        ("../../text.words.empty.npy", Path.unlink),
        ("../../text.words.empty.npy", lambda path: _edit_array(path, lambda a: a[:-1])),
    ],
)
def test_damaged_text_is_one_clear_line(
    tmp_path: Path, captioned: Source, name: str, damage: Callable[[Path], object]
) -> None:
    run(captioned, tmp_path / "out", text_encoders=[Words()])
    damage(tmp_path / "out" / "shards" / "00002" / name)
    dataset = PreparedDataset(tmp_path / "out")
    assert dataset.read_text("words", [2], [0]).any()  # another shard
    for _ in range(2):
        with pytest.raises(RepaError, match=r"^damaged dataset: [^\n]*(00002|empty)[^\n]*$"):
            dataset.read_text("words", [8, 7], [0, 0])  # of one caption and of none


def test_text_is_mapped_and_an_index_outside_is_an_error(tmp_path: Path, captioned: Source) -> None:
    run(captioned, tmp_path / "out", text_encoders=[Words()])
    dataset = PreparedDataset(tmp_path / "out")
    assert dataset.read_text("words", [2], [0]).any()
    assert len(pickle.dumps(dataset)) < 10_000  # not the arrays
    with pytest.raises(ValueError, match="read-only"):
        dataset.empty_text("words")[:] = 0
    with pytest.raises(IndexError, match="image 13 of 13"):
        dataset.read_text("words", [13], [0])
    with pytest.raises(RepaError, match="has no text of clip-vit-l: add it with `repa prepare --d"):
        dataset.empty_text("clip-vit-l")
