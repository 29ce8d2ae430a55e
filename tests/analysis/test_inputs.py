"""The images that are looked at."""

import json
import shutil
from pathlib import Path

import pytest

from repa.analysis.inputs import Images, check_classes
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
