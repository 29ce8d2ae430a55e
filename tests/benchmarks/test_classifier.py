"""The judge that `benchmarks/classifier.py` trains."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from repa.data import PreparedDataset
from repa.errors import RepaError
from repa.evaluation.networks import create_network
from repa.evaluation.networks.classifier import read_record


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "classifier.py"
    spec = importlib.util.spec_from_file_location("classifier_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_learns_its_images_and_says_how_well(
    benchmark: ModuleType,
    emoji_dir: Path,
    emoji: PreparedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmark, "WIDTH", 16)
    monkeypatch.setattr(benchmark, "BATCH", 16)
    monkeypatch.setattr(benchmark, "SHIFT", 1)
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    state = torch.random.get_rng_state()
    accuracy = benchmark.train_classifier(emoji_dir, emoji_dir, files[0], 20, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    labels = torch.tensor(emoji.labels)
    most_frequent = labels.bincount().max().item() / 64
    assert accuracy > most_frequent + 0.2

    judge = create_network("classifier", files[0])
    guesses = judge(torch.from_numpy(emoji.images(range(64)))).probabilities.argmax(1)
    assert (guesses == labels).double().mean().item() == pytest.approx(accuracy) == judge.accuracy
    record = read_record(files[0])
    assert (record.classes, record.resolution) == (tuple(emoji.manifest.classes), 32)
    assert record.test_images == 64

    for file, seed in ((files[1], 1), (files[2], 1), (files[1], 0)):  # over a former one, too
        benchmark.train_classifier(emoji_dir, emoji_dir, file, 1, seed, "cpu")
    first = benchmark.train_classifier(emoji_dir, emoji_dir, files[0], 1, 0, "cpu")
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    assert first == read_record(files[0]).test_accuracy


def test_what_does_not_fit_is_said_before_training(
    benchmark: ModuleType, emoji_dir: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(emoji_dir, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["classes"] = manifest["classes"][::-1]
    (other / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "x.safetensors").write_bytes(b"my diary\n")
    for test, output, message in (
        (other, tmp_path / "y.safetensors", r"other has classes \[.*\]; expected \["),
        (emoji_dir, tmp_path / "y.pth", r"y.pth: expected a name that ends in .safetensors$"),
        (emoji_dir, tmp_path / "x.safetensors", r"x.safetensors is no readable safetensors file"),
        (emoji_dir, tmp_path / "x.safetensors/y.safetensors", r"y.safetensors: (Not a d|File ex)"),
    ):
        with pytest.raises(RepaError, match=message):
            benchmark.train_classifier(emoji_dir, test, output, 1, device="cpu")
