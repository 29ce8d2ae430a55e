"""The images that are looked at."""

import json
import shutil
from pathlib import Path

import pytest
from accelerate import PartialState

from repa.analysis.inputs import Images, check_classes, open_encoders
from repa.cli import main
from repa.data import PreparedDataset
from repa.errors import RepaError


def test_images_that_train_the_classifiers_cannot_test_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    same = tmp_path / "data" / ".." / "data"
    assert main(["probe", "--data-dir", str(tmp_path / "data"), "--val-dir", str(same)]) == 2
    assert "--val-dir is --data-dir: leave it out" in capsys.readouterr().err


def test_a_test_set_that_calls_labels_otherwise_is_refused(emoji_dir: Path, tmp_path: Path) -> None:
    """Accuracies would be by chance; names of another kind altogether may be the same classes."""
    shutil.copytree(emoji_dir, tmp_path / "val")
    manifest = json.loads((tmp_path / "val" / "manifest.json").read_text())
    classes = manifest["classes"]
    train, val = PreparedDataset(emoji_dir), tmp_path / "val"
    for names, fits in ((classes[::-1], False), ([f"n{i}" for i in range(len(classes))], True)):
        (val / "manifest.json").write_text(json.dumps(manifest | {"classes": names}))
        images = Images(train, range(40)), Images(PreparedDataset(val), range(20))
        if fits:
            check_classes(*images)
            continue
        with pytest.raises(RepaError, match=r"\(--val-dir\) differ in their classes: label 0 is"):
            check_classes(*images)


def test_a_test_set_of_fewer_classes_is_refused(emoji_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(emoji_dir, tmp_path / "val")
    manifest = json.loads((tmp_path / "val" / "manifest.json").read_text())
    (tmp_path / "val" / "manifest.json").write_text(
        json.dumps(manifest | {"classes": manifest["classes"] + ["more"]})
    )
    train, val = PreparedDataset(emoji_dir), PreparedDataset(tmp_path / "val")
    count = train.num_classes
    message = rf"^(\S+) has {count} classes, \1 \(--val-dir\) {count + 1}$"
    with pytest.raises(RepaError, match=message):
        check_classes(Images(train, range(40)), Images(val, range(20)))


def test_one_class_is_nothing_to_classify(emoji_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(emoji_dir, tmp_path / "one")
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    (tmp_path / "one" / "manifest.json").write_text(json.dumps(manifest | {"classes": ["all"]}))
    images = Images(PreparedDataset(tmp_path / "one"), range(9))
    with pytest.raises(RepaError, match=r"are all of one class: there is nothing to classify$"):
        check_classes(images, images)


def test_fewer_images_than_processes_are_refused(emoji_dir: Path) -> None:
    processes = PartialState(cpu=True)
    images = Images(PreparedDataset(emoji_dir), range(processes.num_processes - 1))
    with pytest.raises(RepaError, match=r"^0 images are too few for 1 processes$"):
        images.share(processes)


def test_weights_that_cannot_be_had_lead_to_other_encoders(emoji_dir: Path, tmp_path: Path) -> None:
    processes, datasets = PartialState(cpu=True), [PreparedDataset(emoji_dir)]
    message = r"^no weights for jepa-vit-h.* \(--enc-type chooses others, or none\)$"
    with pytest.raises(RepaError, match=message):
        open_encoders(["jepa-vit-h"], datasets, tmp_path, processes)
