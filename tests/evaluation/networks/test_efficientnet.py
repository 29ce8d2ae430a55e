from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from repa.data import PreparedDataset
from repa.encoders.efficientnet import load_efficientnet
from repa.errors import RepaError
from repa.evaluation.networks import create_network


@pytest.fixture(scope="module")
def images(emoji: PreparedDataset) -> Tensor:
    return torch.from_numpy(emoji.images(range(10)))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return create_network("efficientnet-lite0")


@torch.no_grad()
def test_features_and_probabilities_are_timms_own(network: torch.nn.Module, images: Tensor) -> None:
    found = network(images)
    features, probabilities = found.features, found.probabilities
    assert features.shape == (10, 1280)
    assert probabilities.shape == (10, 1000)
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    reference.load_state_dict(load_efficientnet("efficientnet-lite0").state_dict())
    x = F.interpolate(images.float() / 127.5 - 1, (160, 160), mode="bicubic", antialias=True)
    logits = reference(x)
    torch.testing.assert_close(probabilities, logits.softmax(1), rtol=1e-3, atol=1e-5)
    maps = reference.forward_features(x)
    torch.testing.assert_close(features, maps.mean((2, 3)), rtol=1e-3, atol=1e-4)
    assert features.std(0).max() > 0.1


def test_it_stays_in_evaluation_mode_and_frozen(network: torch.nn.Module) -> None:
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_other_image_sizes_are_resized(network: torch.nn.Module, images: Tensor) -> None:
    large = images.repeat_interleave(6, 2).repeat_interleave(6, 3)  # 192 px
    features, small = network(large).features, network(images).features
    similarity = F.cosine_similarity(features, small)
    others = F.cosine_similarity(features, small.roll(1, 0))
    assert (similarity > others).all()


def test_weights_of_a_file_are_refused() -> None:
    message = "^x.pth: efficientnet-lite0 has its weights from a package; leave out --network-wei"
    with pytest.raises(RepaError, match=message):
        create_network("efficientnet-lite0", Path("x.pth"))
