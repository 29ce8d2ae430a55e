import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluation.disk import full_disk
from evaluation.tiny import save_tiny_classifier
from repa.data import PreparedDataset
from repa.errors import RepaError
from repa.evaluation.networks import create_network
from repa.evaluation.networks.classifier import (
    FORMAT,
    Classifier,
    read_record,
    save_classifier,
)
from repa.evaluation.networks.resnet import SmallResNet


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_tiny_classifier(tmp_path / "c.safetensors", ("cat", "dog", "ship"))


@pytest.fixture
def images(emoji: PreparedDataset) -> Tensor:
    return torch.from_numpy(emoji.images(range(64)))


def test_a_file_gives_back_what_was_saved(file: Path, images: Tensor) -> None:
    torch.manual_seed(5)
    saved = SmallResNet(3, 16).eval()
    save_classifier(file, saved, ("a", "b", "c"), 32, 0.875, 40)
    judge = create_network("classifier", file)
    assert isinstance(judge, Classifier)
    assert (judge.classes, judge.accuracy, judge.dim) == (("a", "b", "c"), 0.875, 96)
    assert read_record(file).test_images == 40
    with torch.no_grad():
        found = judge(images)
        logits = saved(images.float() / 127.5 - 1)
    assert found.probabilities is not None
    torch.testing.assert_close(found.probabilities, logits.softmax(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(saved.classifier(found.features), logits, rtol=1e-4, atol=1e-5)
    assert found.features.std(0).max() > 0
    assert not any(p.requires_grad for p in judge.parameters())
    assert not any(module.training for module in judge.modules())


def test_images_are_resized_to_the_size_it_was_trained_at(file: Path, images: Tensor) -> None:
    judge = create_network("classifier", file)
    for size in ((64, 64), (20, 48)):
        other = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
        other = other.round().clamp(0, 255).byte()
        pixels = F.interpolate(other / 127.5 - 1, (32, 32), mode="bicubic", antialias=True)
        expected = judge.network.features(pixels)
        torch.testing.assert_close(judge(other).features, expected, rtol=1e-3, atol=1e-4)


def test_a_file_is_needed(tmp_path: Path) -> None:
    with pytest.raises(RepaError, match=r"^classifier has no weights of its own: train one with b"):
        create_network("classifier")
    with pytest.raises(RepaError, match=r"^no weight file .*none.safetensors$"):
        create_network("classifier", tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("cat",)}, "the classifier is wrong: classes: "),
        ({"width": 7}, "the classifier is wrong: width: "),
        ({"width": 1 << 40}, "the classifier is wrong: width: "),
        ({"resolution": 0}, "the classifier is wrong: resolution: "),
        ({"test_accuracy": 1.5}, "the classifier is wrong: test_accuracy: "),
        ({"other": 1}, "the classifier is wrong: other: "),
        ({"width": 24}, "does not fit the network: "),
        ({"classes": ("cat", "dog")}, "does not fit the network: "),
        ({"weights": "0" * 16}, "is damaged: its weights are not those that were saved"),
    ],
)
def test_a_record_that_does_not_fit_is_one_clear_line(
    file: Path, change: dict[str, object], message: str
) -> None:
    record = read_record(file).model_dump() | change
    metadata = {FORMAT: json.dumps(record)}
    save_file(load_file(file), file, metadata)
    with pytest.raises(RepaError, match=rf"^[^\n]*c.safetensors[^\n]* {message}[^\n]*$"):
        create_network("classifier", file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "is no readable safetensors file"),
        (lambda data: b"my diary\n", "is no readable safetensors file"),
        (lambda data: data[:-1], "is no readable safetensors file"),
        (
            lambda data: data.replace(FORMAT.encode(), b"another-form-of-1", 1),
            "holds no classifier",
        ),
        (lambda data: data[:-5] + b"\xff" + data[-4:], "is damaged: its weights are not those"),
    ],
)
def test_a_damaged_or_foreign_file_is_one_clear_line(
    file: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RepaError, match=rf"^[^\n]*c.safetensors {message}[^\n]*$"):
        create_network("classifier", file)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    torch.save(SmallResNet(3, 8).state_dict(), tmp_path / "c.pth")
    with pytest.raises(RepaError, match="c.pth is no readable safetensors file"):
        create_network("classifier", tmp_path / "c.pth")


def test_what_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(RepaError, match="c.safetensors cannot be written: File too"):
        save_tiny_classifier(tmp_path / "c.safetensors", ("cat", "dog"))
    assert list(tmp_path.iterdir()) == []
