"""Networks of random weights in the files that are published, and images: what tests share."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from evaluation.captioned import COUNT, save_whole_clip, write_lines
from evaluation.tiny import Tiny
from repa.data import PreparedDataset
from repa.data.images import decode_image
from repa.data.sources import open_source
from repa.evaluation.networks import Network, create_network

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10-test.zip"


@pytest.fixture(scope="session")
def needs_photographs() -> None:
    if not CIFAR10.exists():
        pytest.skip(f"needs the test images of CIFAR-10 in {CIFAR10}")


@pytest.fixture(scope="session")
def photos(emoji: PreparedDataset) -> Tensor:
    """32 photographs of CIFAR-10, or emoji where it is not at hand, (32, 3, 32, 32) uint8."""
    if not CIFAR10.exists():
        return torch.from_numpy(emoji.images(range(0, 64, 2)))
    source = open_source(str(CIFAR10))
    images = [decode_image(source.read(i)) for i in range(0, len(source.items), 313)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose activations neither fade nor explode: the norms have seen images."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *arguments: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("random", ["2048"])
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # running statistics are averages over all seen
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.5)
                module.train()
        network(torch.randint(256, (12, 3, 5, 5), dtype=torch.uint8))
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def inception(inception_file: Path) -> Network:
    return create_network("inception", inception_file)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any network is a small one of that name."""
    monkeypatch.setattr("repa.evaluation.evaluate.create_network", lambda name, weights: Tiny(name))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, emoji: PreparedDataset) -> Path:
    return save_whole_clip(tmp_path_factory.mktemp("clip"), emoji)


@pytest.fixture
def copy(clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip, tmp_path / "copy"))


@pytest.fixture
def samples(tmp_path: Path, emoji: PreparedDataset) -> Path:
    """Real emoji with their names as prompts beside them, in no order."""
    images = emoji.images(range(COUNT)).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "a.npz", arr_0=images)
    names = [emoji.captions(i)[0] for i in range(COUNT)]
    write_lines(tmp_path / "a.prompts.jsonl", names[::-1], list(range(COUNT))[::-1])
    return tmp_path / "a.npz"
