"""Text in prepared datasets: tokens of all captions, made in the same pass or in a later one."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.preparing import Averages, Crash, Crashes, Words, captioned_source, run, snapshot
from repa.data import PreparedDataset
from repa.data.prepare import extend
from repa.data.share import Work
from repa.data.sources import Source, open_source
from repa.errors import RepaError

WORK = Work(batch_size=3, num_workers=0)
GOOD = [i for i in range(14) if i != 2]  # items of the captioned source that are images
pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def captioned(picture: Callable[..., bytes]) -> Source:
    return captioned_source(picture)


def add(dest: Path, *encoders: Words, **options: str) -> None:
    extend(dest, None, {}, WORK, text_encoders=encoders, **options)  # type: ignore[arg-type]


def stored(tokens: Tensor) -> np.ndarray:
    return tokens.to(torch.float16).numpy()


# What is written


def test_all_captions_are_kept_in_order(tmp_path: Path, captioned: Source) -> None:
    run(captioned, tmp_path / "out", text_encoders=[Words()])
    dataset = PreparedDataset(tmp_path / "out")
    counts = []
    for index, item in enumerate(GOOD):
        captions = list(captioned.items[item].captions)
        assert dataset.captions(index) == captions
        for j, caption in enumerate(captions):
            [tokens] = dataset.read_text("words", [index], [(j + 0.5) / len(captions)])
            np.testing.assert_array_equal(tokens, stored(Words()([caption]))[0])
        counts.append(len(captions))
    assert counts == [0, 1, 3, 0, 0, 0, 0, 0, 1, 2, 3, 0, 1]
    shards = tmp_path / "out" / "shards"
    assert np.load(shards / "00000" / "text.starts.npy").tolist() == [0, 0, 1, 4]
    assert np.load(shards / "00002" / "text.starts.npy").tolist() == [0, 0, 1, 3, 6]
    assert np.load(shards / "00002" / "text.words.npy").shape == (6, 4, 3)


def test_the_packaged_captions(tmp_path: Path) -> None:
    source = open_source("twemoji")
    manifest = run(source, tmp_path / "out", max_images=9, text_encoders=[Words(name="t5:org/w")])
    record = manifest.text["t5:org/w"]
    assert (record.length, record.dim, record.mask_padding) == (4, 3, True)
    assert (record.weights, record.precision) == (Words.fingerprint, "no")
    dataset = PreparedDataset(tmp_path / "out")
    captions = [dataset.captions(i)[0] for i in range(9)]
    assert len(set(captions)) > 5
    tokens = dataset.read_text("t5:org/w", range(9), [0.5] * 9)
    assert (tokens.shape, tokens.dtype) == ((9, 4, 3), np.float16)
    np.testing.assert_array_equal(tokens, stored(Words()(captions)))


def test_workers_and_batch_size_change_nothing(tmp_path: Path, captioned: Source) -> None:
    run(captioned, tmp_path / "one", Averages(), text_encoders=[Words()])
    others = {"num_workers": 2, "batch_size": 64}
    run(captioned, tmp_path / "other", Averages(), text_encoders=[Words()], **others)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "other")


def test_every_cut_caption_is_counted(tmp_path: Path, captioned: Source) -> None:
    captions = [caption for item in GOOD for caption in captioned.items[item].captions]
    expected = sum(len(caption.split()) > 4 for caption in captions)
    assert 0 < expected < len(captions)
    manifest = run(captioned, tmp_path / "out", text_encoders=[Words()])
    assert manifest.text["words"].truncated == expected
    cut = [shard.truncated for shard in manifest.shards]
    assert cut == [{"words": 2}, {}, {"words": 3}, {"words": 0}]


def test_without_captions_there_is_no_text_and_no_work(tmp_path: Path, source: Source) -> None:
    encoder = Words()
    message = "--text-enc-type words: pictures has no captions"
    with pytest.raises(RepaError, match=message):
        run(source, tmp_path / "out", text_encoders=[encoder])
    assert not (tmp_path / "out").exists()
    run(source, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    with pytest.raises(RepaError, match=message):
        add(tmp_path / "out", encoder)
    assert snapshot(tmp_path / "out") == before
    assert encoder.calls == 0


def test_nothing_is_left_where_no_image_can_be_read(tmp_path: Path, captioned: Source) -> None:
    captioned._read = lambda name: b""
    for out in (tmp_path / "new", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(RepaError, match="no image in own"):
            run(captioned, out, text_encoders=[Words()])
        assert not out.exists() or not list(out.iterdir())


# Passes of their own, stopping and going on


@pytest.fixture
def whole(tmp_path: Path, captioned: Source) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    texts = [Words(), Words(name="more")]
    run(captioned, tmp_path / "whole", Averages(), text_encoders=texts)
    return snapshot(tmp_path / "whole")


def test_separate_passes_end_with_the_files_of_a_single_one(
    tmp_path: Path, captioned: Source, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    run(captioned, out)
    add(out, Words(name="more"))
    run(captioned, out, Averages())
    add(out, Words())
    assert snapshot(out) == whole


# The first call is for the empty caption; the first and third shard need two each, the last one.
@pytest.mark.parametrize("fail_at", [1, 2, 3, 4, 5, 6])
def test_an_interrupted_run_goes_on_to_the_same_files(
    tmp_path: Path, captioned: Source, fail_at: int
) -> None:
    run(captioned, tmp_path / "whole", Averages(), text_encoders=[Words()])
    out, batch_size = tmp_path / "out", 2
    with pytest.raises(RuntimeError, match="on fire"):
        run(captioned, out, Averages(), text_encoders=[Words(fail_at)], batch_size=batch_size)
    with pytest.raises(RepaError, match="not finished: run the same"):
        PreparedDataset(out)
    encoder = Words()
    run(captioned, out, Averages(), text_encoders=[encoder], batch_size=batch_size)
    assert snapshot(out) == snapshot(tmp_path / "whole")
    done = 0 if fail_at == 1 else 1 + 2 * (fail_at > 3) + 2 * (fail_at > 5)
    assert encoder.calls == 6 - done  # whole shards not again


def test_a_crash_before_any_step_of_adding_text_leaves_what_can_go_on(
    tmp_path: Path, captioned: Source, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(captioned, tmp_path / "before", Averages())
    crashes = Crashes()
    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, crashes.wrap(getattr(Path, name)))
    monkeypatch.setattr(os, "fsync", crashes.wrap(os.fsync))

    count, finished = 0, False
    while not finished:
        out = Path(shutil.copytree(tmp_path / "before", tmp_path / f"out{count}"))
        crashes.countdown = count + 1
        try:
            add(out, Words(), Words(name="more"))
            finished = True
        except Crash:
            count += 1
        crashes.countdown = 0
        PreparedDataset(out)[0]  # stays readable
        add(out, Words(), Words(name="more"))
        assert snapshot(out) == whole, f"after a crash before step {count}"
    assert count > 20


def test_leftovers_of_a_killed_write_are_replaced(
    tmp_path: Path, captioned: Source, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    run(captioned, out, Averages())
    with pytest.raises(RuntimeError, match="on fire"):
        add(out, Words(fail_at=3), Words(name="more"))
    shard = out / "shards" / "00002"
    for name in ("text.words.npy", "text.words.npy.partial", "text.starts.npy"):
        (shard / name).write_bytes(b"renamed or half, and not in the record")
    (out / "text.more.empty.npy.partial").write_bytes(b"half")
    (out / "text.more.empty.npy").unlink()
    add(out, Words(), Words(name="more"))
    assert snapshot(out) == whole


def test_a_finished_dataset_is_left_alone(
    tmp_path: Path, captioned: Source, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "whole"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    encoder = Words(fail_at=1)
    run(captioned, out, text_encoders=[encoder])
    add(out, encoder)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert encoder.calls == 0


def test_a_dataset_stays_readable_while_text_joins_it(tmp_path: Path, captioned: Source) -> None:
    out = tmp_path / "out"
    run(captioned, out, text_encoders=[Words()])
    with pytest.raises(RuntimeError, match="on fire"):
        add(out, Words(fail_at=3, name="more"))
    dataset = PreparedDataset(out)
    assert set(dataset.manifest.text) == {"words"}
    assert dataset.read_text("words", [2], [0]).shape == (1, 4, 3)
    with pytest.raises(RepaError, match="has no text of more: add it with"):
        dataset.read_text("more", [2], [0])
    with pytest.raises(RepaError, match="has unfinished text: add more to --text-enc-type"):
        run(captioned, out)
    add(out, Words(name="more"))
    assert set(PreparedDataset(out).manifest.text) == {"more", "words"}


def test_text_of_other_weights_or_kind_is_refused(tmp_path: Path, captioned: Source) -> None:
    class Other(Words):
        fingerprint = "0123456789abcdef"

    class Longer(Words):
        length = 5

    out = tmp_path / "out"
    run(captioned, out, text_encoders=[Words()])
    before = snapshot(out)
    for wrong in (
        lambda: add(out, Other()),
        lambda: add(out, Longer()),
        lambda: add(out, Words(), precision="bf16"),
        lambda: run(captioned, out, text_encoders=[Other()]),
    ):
        with pytest.raises(RepaError, match=r"different: text.words\)"):
            wrong()
        assert snapshot(out) == before


def test_what_was_deleted_is_made_anew(
    tmp_path: Path, captioned: Source, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "whole"
    (out / "text.words.empty.npy").unlink()
    with pytest.raises(RepaError, match="has unfinished text: add words to --text-enc-type"):
        add(out, Words(name="more"))
    add(out, Words())
    assert snapshot(out) == whole
    shutil.rmtree(out / "shards" / "00002")
    with pytest.raises(RepaError, match="unfinished text: add more,words to --text-enc-type"):
        run(captioned, out, Averages())
    run(captioned, out, Averages(), text_encoders=[Words(), Words(name="more")])
    assert snapshot(out) == whole


@pytest.mark.parametrize("damage", ["cut", "other", "missing"])
def test_damaged_captions_are_not_encoded(tmp_path: Path, captioned: Source, damage: str) -> None:
    out = tmp_path / "out"
    run(captioned, out)
    path = out / "shards" / "00002" / "captions.json"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-9] if damage == "cut" else data.replace(b"picture-9", b"picture-8"))
    with pytest.raises(RepaError, match=r"damaged dataset: .*00002/captions.json is not what was"):
        add(out, Words())


def test_damaged_images_do_not_hinder_text(tmp_path: Path, captioned: Source) -> None:
    """They are not read for it, and so need not be hashed, which takes long for many images."""
    run(captioned, tmp_path / "out")
    (tmp_path / "out" / "shards" / "00002" / "images.npy").write_bytes(b"damaged")
    add(tmp_path / "out", Words())
    assert set(PreparedDataset(tmp_path / "out").manifest.text) == {"words"}
