import os
import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torch_fidelity
from torch import Tensor
from torch.utils.data import TensorDataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from repa.errors import RepaError
from repa.evaluation.compare import compare
from repa.evaluation.extract import extract
from repa.evaluation.networks import Features, Network, create_network
from repa.evaluation.statistics import Reference

FILE = "weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def features(inception: Network, photos: Tensor) -> Features:
    return extract(inception, photos.split(20))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloaded weights, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "torch" / "hub" / "checkpoints"


class Images(TensorDataset):
    """As torch-fidelity takes a data set."""

    def __getitem__(self, index: int) -> Tensor:
        return super().__getitem__(index)[0]


def test_fid_is_torch_fidelitys(
    needs_photographs: None, photos: Tensor, inception_file: Path, features: Features
) -> None:
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(photos[:16]),
        input2=Images(photos[16:]),
        fid=True,
        cuda=False,
        verbose=False,
        cache=False,
        batch_size=16,
        save_cpu_ram=True,
        feature_extractor_weights_path=str(inception_file),
    )["frechet_inception_distance"]
    assert features.spatial is not None
    assert features.probabilities is not None
    halves = [
        Features(features.features[part], features.spatial[part], features.probabilities[part])
        for part in (slice(16), slice(16, None))
    ]
    ours = compare(Reference.fit(halves[0]), halves[1], ["fid"])["fid"]
    # They take roots of what rounding leaves of 2,000 eigenvalues that are zero.
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours > 100


def test_features_and_probabilities_are_adms(
    inception: Network, inception_file: Path, photos: Tensor, features: Features
) -> None:
    theirs = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(inception_file)
    )
    (expected,) = theirs(photos[:6])
    torch.testing.assert_close(features.features[:6], expected, rtol=1e-3, atol=1e-4)
    assert expected.std(0).mean() > 0.1
    logits = features.features @ theirs.fc.weight.T  # without the bias
    torch.testing.assert_close(features.probabilities, logits.softmax(1), rtol=1e-4, atol=1e-6)
    assert theirs.fc.bias.abs().max() > 0.01
    assert features.probabilities.shape == (32, 1008)


def test_the_spatial_features_are_seven_maps_of_mixed_6(
    inception: Network, photos: Tensor, features: Features
) -> None:
    """The network step by step, without hooks; rows, columns, channels, as TensorFlow has them."""
    net = inception.network
    x = interpolate_bilinear_2d_like_tensorflow1x(
        photos[:2].float(), size=(299, 299), align_corners=False
    )
    x = (x - 128) / 128
    x = net.MaxPool_1(net.Conv2d_2b_3x3(net.Conv2d_2a_3x3(net.Conv2d_1a_3x3(x))))
    x = net.MaxPool_2(net.Conv2d_4a_3x3(net.Conv2d_3b_1x1(x)))
    # TensorFlow's names: mixed, mixed_1, mixed_2; mixed_3; mixed_4, mixed_5
    for block in (net.Mixed_5b, net.Mixed_5c, net.Mixed_5d, net.Mixed_6a, net.Mixed_6b):
        x = block(x)
    x = net.Mixed_6c(x)
    branch = net.Mixed_6d.branch1x1
    maps = F.relu(branch.bn(branch.conv(x)))  # (2, 192, 17, 17)
    assert maps.shape == (2, 192, 17, 17)
    assert features.spatial is not None
    assert features.spatial.shape == (32, 2023)
    for row, column, channel in ((0, 0, 0), (0, 0, 6), (0, 1, 0), (16, 16, 6), (9, 4, 3)):
        place = (row * 17 + column) * 7 + channel
        torch.testing.assert_close(
            features.spatial[:2, place], maps[:, channel, row, column], rtol=1e-3, atol=1e-4
        )
    whole = torch.stack([maps[:, c] for c in range(7)], dim=-1).flatten(1)
    torch.testing.assert_close(features.spatial[:2], whole, rtol=1e-3, atol=1e-4)
    assert features.spatial.std(0).mean() > 0.01


def test_it_is_frozen_and_keeps_nothing_of_a_batch(inception: Network, photos: Tensor) -> None:
    assert not any(module.training for module in inception.train().modules())
    assert not any(parameter.requires_grad for parameter in inception.parameters())
    with pytest.raises(Exception, match="uint8"):
        inception(photos[:1].float())
    one = inception(photos[:1])
    assert one.spatial.shape == (1, 2023)
    assert len(inception(photos[:1]).spatial) == 1


def test_the_fingerprint_is_the_weights_not_the_files(
    tmp_path: Path, inception: Network, inception_file: Path
) -> None:
    state = torch.load(inception_file, weights_only=True)
    torch.save(dict(reversed(state.items())), tmp_path / "other.pth")
    same = create_network("inception", tmp_path / "other.pth")
    assert same.fingerprint == inception.fingerprint
    state["fc.bias"][3] += 1
    torch.save(state, tmp_path / "changed.pth")
    assert create_network("inception", tmp_path / "changed.pth").fingerprint != same.fingerprint


def test_cached_weights_are_found(cache: Path, inception: Network, inception_file: Path) -> None:
    shutil.copy(inception_file, cache / FILE)
    assert create_network("inception").fingerprint == inception.fingerprint


def test_weights_are_downloaded_into_the_cache(
    cache: Path, inception: Network, inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, destination: str, hash_prefix: str) -> None:
        assert url.endswith("/" + FILE)
        assert hash_prefix == "6726825d"
        shutil.copy(inception_file, destination)

    cache.rmdir()
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert create_network("inception").fingerprint == inception.fingerprint
    assert (cache / FILE).is_file()


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_had_are_one_clear_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def download(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(RepaError) as caught:
        create_network("inception")
    message = str(caught.value)
    assert "\n" not in message
    for part in (FILE, str(cache), "--network-weights (--eval-network-weights "):
        assert part in message
    assert "no route" in message or "invalid hash value" in message


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_partial_file_in_the_cache_is_one_clear_line(
    cache: Path, inception_file: Path, share: float
) -> None:
    data = inception_file.read_bytes()
    (cache / FILE).write_bytes(data[: int(share * len(data))])
    with pytest.raises(RepaError, match=rf"cannot read weights from [^\n]*{FILE}[^\n]*: delete "):
        create_network("inception")


def test_poisoned_weights_are_refused_and_not_run(tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was-run"),)

    torch.save({"fc.bias": Poison()}, tmp_path / "zip.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"fc.bias": Poison()}, protocol=2))
    for name in ("zip.pth", "pickle.pth"):
        with pytest.raises(RepaError, match=f"cannot read weights from .*{name}"):
            create_network("inception", tmp_path / name)
    assert not (tmp_path / "was-run").exists()


def test_other_weights_are_one_clear_line(tmp_path: Path) -> None:
    torch.save({"fc.bias": torch.zeros(3), "epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(RepaError, match=r"^[^\n]*x.pth does not fit the network: Missing key"):
        create_network("inception", tmp_path / "x.pth")
    with pytest.raises(RepaError, match="no weight file .*nowhere.pth$"):
        create_network("inception", tmp_path / "nowhere.pth")
