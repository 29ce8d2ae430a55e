import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repa.autoencoders import Pixels
from repa.config import EvaluateOptions
from repa.data import PreparedDataset
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import open_source
from repa.errors import RepaError
from repa.evaluation import frechet_distance, inception_score, precision_recall
from repa.evaluation.evaluate import compare, run_evaluate
from repa.evaluation.networks import create_network


def options(reference: Path, samples: Path, **others: Any) -> EvaluateOptions:
    values = {"network": "efficientnet-lite0", "batch_size": 16, "device": "cpu"}
    return EvaluateOptions.model_validate(
        {"reference": reference, "samples": samples} | values | others
    )


@pytest.fixture(scope="module")
def val_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 emoji that are in no training split."""
    folder = tmp_path_factory.mktemp("val") / "prepared"
    source, work = open_source("twemoji-val"), Work(num_workers=0)
    prepare(source, folder, 32, Pixels(), {}, max_images=24, work=work)
    return folder


@pytest.fixture
def npz(tmp_path: Path, val_dir: Path) -> Path:
    """The same as the file that evaluation suites read."""
    images = PreparedDataset(val_dir).images(range(24))
    np.savez(tmp_path / "samples.npz", arr_0=images.transpose(0, 2, 3, 1))
    return tmp_path / "samples.npz"


def test_real_images_are_compared_and_the_result_written(
    tmp_path: Path, emoji_dir: Path, npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results" / "metrics.json"
    run_evaluate(options(emoji_dir, npz, output=output))
    result = json.loads(output.read_text())
    assert (result["samples"], result["reference"]) == (24, 64)
    assert result["network"] == "efficientnet-lite0"

    network = create_network("efficientnet-lite0")
    real, _ = network(torch.from_numpy(PreparedDataset(emoji_dir).images(range(64))))
    images = np.load(npz)["arr_0"].transpose(0, 3, 1, 2)
    fake, probabilities = network(torch.from_numpy(images))
    precision, recall = precision_recall(real, fake, 3)
    assert result["frechet_distance"] == pytest.approx(frechet_distance(real, fake), rel=1e-3)
    assert result["precision"] == pytest.approx(precision)
    assert result["recall"] == pytest.approx(recall)
    assert result["inception_score"] == pytest.approx(inception_score(probabilities), rel=1e-3)
    assert result["frechet_distance"] > 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("warning: fewer images than the network's 1280 features")
    printed = dict(line.split() for line in lines[1:])
    assert printed.keys() == result.keys()
    assert float(printed["frechet_distance"]) == pytest.approx(result["frechet_distance"], abs=1e-4)


def test_a_set_against_itself_is_perfect(tmp_path: Path, val_dir: Path, npz: Path) -> None:
    run_evaluate(options(val_dir, npz, output=tmp_path / "metrics.json", neighbors=2))
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["frechet_distance"] == pytest.approx(0, abs=1e-3)
    assert result["precision"] == result["recall"] == 1


def test_compare_names_all_metrics() -> None:
    real, fake = torch.randn(30, 4), torch.randn(20, 4)
    probabilities = torch.randn(20, 5).softmax(1)
    precision, recall = precision_recall(real, fake, 2)
    assert compare(real, fake, probabilities, k=2) == {
        "frechet_distance": frechet_distance(real, fake),
        "precision": precision,
        "recall": recall,
        "inception_score": inception_score(probabilities),
    }


def test_sets_too_small_are_one_clear_line(tmp_path: Path, emoji_dir: Path) -> None:
    np.savez(tmp_path / "few.npz", np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(RepaError, match=r"--samples .*few.npz: 3 images are too few"):
        run_evaluate(options(emoji_dir, tmp_path / "few.npz"))
    with pytest.raises(RepaError, match=r"--reference .*few.npz: 3 images are too few"):
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


def test_an_output_that_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, emoji_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(name: str) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("repa.evaluation.evaluate.create_network", work)
    (tmp_path / "file").touch()
    with pytest.raises(RepaError, match="--output .* is a folder"):
        run_evaluate(options(emoji_dir, emoji_dir, output=tmp_path))
    with pytest.raises(RepaError, match="--output .*file/metrics.json: "):
        run_evaluate(options(emoji_dir, emoji_dir, output=tmp_path / "file" / "metrics.json"))
