import numpy as np
import pytest
import torch

from repa.alignment import spatial_normalization
from repa.data import PreparedDataset
from repa.encoders import create_encoder
from repa.training import train
from repa.training.targets import target_normalizations

NAME = "efficientnet-lite0"
CPU = torch.device("cpu")


@pytest.fixture
def dataset(emoji_dir) -> PreparedDataset:
    return PreparedDataset(emoji_dir)


def test_none_leaves_tokens_alone(dataset) -> None:
    assert target_normalizations("none", dataset, [NAME], {}, 4, CPU) == {}


def test_spatial_is_irepas(dataset) -> None:
    found = target_normalizations("spatial", dataset, [NAME], {}, 4, CPU)
    assert found == {NAME: spatial_normalization}


def test_channels_have_mean_zero_and_deviation_one_over_the_dataset(dataset) -> None:
    encoder = create_encoder("pixels", dataset.manifest.resolution, 4)
    names = ["pixels", NAME]
    found = target_normalizations("channel", dataset, names, {"pixels": encoder}, 4, CPU)
    images = torch.from_numpy(dataset.images(range(len(dataset))))
    tokens = found["pixels"](encoder(images)).flatten(0, 1)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(encoder.dim), atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens.std(0), torch.ones(encoder.dim), atol=1e-2, rtol=0)
    assert found[NAME].mean.shape == (112,)  # of the cached tokens


@pytest.mark.parametrize("norm", ["spatial", "channel"])
def test_a_run_is_aligned_to_normalized_targets(options, norm: str) -> None:
    """And goes on exactly as it would have without a stop."""
    whole = train(options(exp_name="whole", target_norm=norm))
    plain = train(options(exp_name="plain"))
    train(options(exp_name="parts", target_norm=norm, max_train_steps=2))
    parts = train(options(exp_name="parts", target_norm=norm))

    def weights(run) -> bytes:
        return (run / "checkpoints" / "0000004" / "model.safetensors").read_bytes()

    assert weights(whole) == weights(parts)
    a, b = (np.frombuffer(weights(run), np.uint8) for run in (whole, plain))
    assert not np.array_equal(a, b)
