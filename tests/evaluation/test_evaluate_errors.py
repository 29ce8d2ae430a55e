import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.tiny import Tiny, options, save_tiny_classifier
from repa.errors import RepaError
from repa.evaluation.evaluate import run_evaluate


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Nine random images."""
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "samples.npz", images)
    return tmp_path / "samples.npz"


def test_sets_too_small_are_one_clear_line(tmp_path: Path, emoji_dir: Path, tiny: None) -> None:
    np.savez(tmp_path / "few.npz", np.zeros((3, 8, 8, 3), np.uint8))
    needed = "precision and recall with --neighbors 3 need at least 4$"
    with pytest.raises(RepaError, match=rf"the samples .*few.npz: 3 images; {needed}"):
        run_evaluate(options(emoji_dir, tmp_path / "few.npz"))
    with pytest.raises(RepaError, match=rf"the reference .*few.npz: 3 images; {needed}"):
        run_evaluate(options(tmp_path / "few.npz", emoji_dir))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "vgg"}, "unknown network 'vgg'"),
        ({"samples": Path("nowhere.npz")}, "nowhere.npz: no readable npz"),
    ],
)
def test_what_is_unknown_is_one_clear_line(emoji_dir: Path, wrong: dict, message: str) -> None:
    with pytest.raises(RepaError, match=message):
        run_evaluate(options(**({"reference": emoji_dir, "samples": emoji_dir} | wrong)))


def test_labels_that_a_classifier_does_not_know_are_found_before_the_work(
    tmp_path: Path, emoji_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repa.evaluation.evaluate.load_reference", None)
    file = save_tiny_classifier(tmp_path / "c.safetensors", ("cat", "dog"))
    message = r"^the samples .*prepared: label [2-8] is none of the classes of classifier, 0 to 1: "
    with pytest.raises(RepaError, match=message):
        run_evaluate(options(emoji_dir, emoji_dir, network="classifier", network_weights=file))


def test_a_target_is_checked_before_the_work(
    tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*arguments: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("repa.evaluation.evaluate.create_network", work)
    monkeypatch.setattr("repa.evaluation.evaluate.ImageSet", work)
    before = npz.read_bytes()
    for targets, message in (
        ({"save_stats": npz}, r"--save-stats .*samples.npz would overwrite --samples"),
        ({"output": npz}, r"--output .*samples.npz would overwrite --samples"),
        ({"output": tmp_path}, r"--output .* is a folder"),
        ({"save_stats": Path("x.pkl")}, r"--save-stats x.pkl: expected a name that ends in .npz"),
    ):
        with pytest.raises(RepaError, match=message):
            run_evaluate(options(npz, npz, **targets))
    assert npz.read_bytes() == before
    assert os.listdir(tmp_path) == [npz.name]


@pytest.mark.parametrize("target", ["output", "save_stats"])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, npz: Path, tiny: None, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    flag = "--" + target.replace("_", "-")
    message = rf"^{flag} [^\n]*x.npz cannot be written: No space left on device$"
    with pytest.raises(RepaError, match=message):
        run_evaluate(options(npz, npz, **{target: tmp_path / "new" / "x.npz"}))
    assert os.listdir(tmp_path) == [npz.name]


def test_a_failing_command_leaves_no_folder(tmp_path: Path, npz: Path, tiny: None) -> None:
    with pytest.raises(RepaError, match="nowhere"):
        run_evaluate(options(tmp_path / "nowhere", npz, output=tmp_path / "new" / "x.json"))
    assert os.listdir(tmp_path) == [npz.name]


def test_a_network_of_broken_weights_is_one_clear_line(
    tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Tiny()
    network.network.weight.data[2, 3] = torch.nan
    monkeypatch.setattr("repa.evaluation.evaluate.create_network", lambda name, weights: network)
    message = r"^inception gives features of the reference .*samples.npz that are not finite"
    with pytest.raises(RepaError, match=message):
        run_evaluate(options(npz, npz, output=tmp_path / "x.json"))
    np.savez(tmp_path / "bare.npz", mu=np.zeros(6), sigma=np.eye(6))
    with pytest.raises(RepaError, match=r"of the samples .*samples.npz that are not finite"):
        run_evaluate(options(tmp_path / "bare.npz", npz, output=tmp_path / "x.json"))
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("change", [{"mu": np.full(6, 1e200)}, {"sigma": np.eye(6) * 1e308}])
def test_a_metric_that_overflows_is_one_clear_line(
    tmp_path: Path, npz: Path, tiny: None, change: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "huge.npz", **({"mu": np.zeros(6), "sigma": np.eye(6)} | change))
    with pytest.raises(RepaError, match=r"^fid is (inf|nan), not [^\n]* --reference .*huge.npz"):
        run_evaluate(options(tmp_path / "huge.npz", npz, output=tmp_path / "x.json"))
    assert "fid " not in capsys.readouterr().out
    assert not (tmp_path / "x.json").exists()


def test_covariances_that_cannot_be_decomposed_are_one_clear_line(
    npz: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise torch.linalg.LinAlgError("linalg.eigh: failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    with pytest.raises(RepaError, match=r"^the covariances have no eigenvalues[^\n]*$"):
        run_evaluate(options(npz, npz))
