"""What all encoders have in common."""

import hashlib

import pytest
import torch
from torch import Tensor, nn

from repa.encoders import (
    ENCODERS,
    Encoder,
    check_encoder_names,
    create_encoder,
    resample_tokens,
)
from repa.errors import RepaError


class Patches(Encoder):
    """Averages of patches through a layer with dropout and batch norm."""

    def __init__(self, grid_size: int = 4):
        network = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.BatchNorm2d(5), nn.Dropout(0.5))
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
        super().__init__("patches", network, 5, 16, grid_size, mean, std)

    def tokens(self, pixels: Tensor) -> Tensor:
        self.seen = pixels
        return self.network(pixels).flatten(2).transpose(1, 2)


def images(count: int = 2, height: int = 16, width: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


def test_it_is_frozen_and_stays_in_evaluation_mode() -> None:
    encoder = Patches()
    around = nn.ModuleList([encoder]).train()
    assert around.training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    x = images()
    tokens = encoder(x)
    assert not tokens.requires_grad
    torch.testing.assert_close(encoder(x), tokens, rtol=0, atol=0)  # no dropout, no batch norm


def test_pixels_are_normalized_by_channel() -> None:
    encoder, x = Patches(), images()
    encoder(x)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.6), (0.3, 0.7)]):
        expected = (x[:, channel].float() / 255 - mean) / std
        torch.testing.assert_close(encoder.seen[:, channel], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pixels_are_prepared_in_full_precision(dtype: torch.dtype) -> None:
    """Their normalization, too, is not rounded to the network's precision."""
    encoder, x = Patches(), images(height=40)
    encoder(x)
    expected = encoder.seen
    encoder.to(dtype)(x)
    torch.testing.assert_close(encoder.seen, expected.to(dtype), rtol=0, atol=0)
    with torch.autocast("cpu", dtype):
        (mixed := Patches())(x)
    torch.testing.assert_close(mixed.seen, expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (16, 24), (24, 16), (1, 1)])
def test_any_image_size_is_brought_to_the_networks(size: tuple[int, int]) -> None:
    encoder = Patches()
    assert encoder(images(3, *size)).shape == (3, 16, 5)
    assert encoder.seen.shape == (3, 3, 16, 16)


def test_the_grid_asked_for_is_returned() -> None:
    x = images()
    whole = Patches()
    coarse = Patches(grid_size=2)
    coarse.load_state_dict(whole.state_dict())
    torch.testing.assert_close(coarse(x), resample_tokens(whole(x), 2))


# Fingerprints


def test_a_fingerprint_is_of_all_weights_but_positions() -> None:
    encoder = Patches()
    digest = hashlib.sha256()
    for name, value in sorted(encoder.network.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    assert encoder.fingerprint == digest.hexdigest()[:16]
    encoder.network.register_buffer("pos_embed", torch.ones(3))
    assert encoder.fingerprint == digest.hexdigest()[:16]
    for name, value in encoder.network.state_dict().items():
        if name != "pos_embed":
            before = encoder.fingerprint
            value.view(-1)[-1] += 1
            assert encoder.fingerprint != before, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_fingerprints_of_other_types_and_layouts(dtype: torch.dtype) -> None:
    encoder = Patches().to(dtype)
    before = encoder.fingerprint
    assert len(before) == 16
    assert int(before, 16)
    encoder.to(memory_format=torch.channels_last)
    assert not encoder.network[0].weight.is_contiguous()
    assert encoder.fingerprint == before


# Tokens of another grid


def test_tokens_of_the_right_grid_stay_as_they_are() -> None:
    tokens = torch.randn(2, 16, 3)
    assert resample_tokens(tokens, 4) is tokens


def test_fewer_tokens_are_averages() -> None:
    tokens = torch.randn(2, 16, 3)
    grid = tokens.view(2, 4, 4, 3)
    result = resample_tokens(tokens, 2).view(2, 2, 2, 3)
    for i in range(2):
        for j in range(2):
            block = grid[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            torch.testing.assert_close(result[:, i, j], block.mean((1, 2)))
    torch.testing.assert_close(resample_tokens(tokens, 1), tokens.mean(1, keepdim=True))


def test_more_tokens_are_interpolated() -> None:
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    tokens = torch.stack([row, column], -1).view(1, 16, 2)
    result = resample_tokens(tokens, 8).view(8, 8, 2)
    positions = ((torch.arange(8) + 0.5) / 2 - 0.5).clamp(0, 3)
    torch.testing.assert_close(result[..., 0], positions[:, None].expand(8, 8))
    torch.testing.assert_close(result[..., 1], positions[None, :].expand(8, 8))


@pytest.mark.parametrize(("side", "grid_size"), [(16, 8), (8, 16), (5, 3), (3, 5), (1, 4)])
def test_constant_tokens_stay_constant(side: int, grid_size: int) -> None:
    tokens = torch.tensor([1.5, -2.0]).expand(2, side**2, 2)
    result = resample_tokens(tokens, grid_size)
    assert result.shape == (2, grid_size**2, 2)
    torch.testing.assert_close(result, tokens[:, :1].expand(2, grid_size**2, 2))


# Names


def test_unknown_names_list_the_known_ones() -> None:
    for names in ("dinov5", "", "efficientnet-lite0,dinov5", "efficientnet-lite0,"):
        with pytest.raises(
            RepaError, match=r"unknown encoder '.*' \(--enc-type\); choose from eff"
        ):
            check_encoder_names(names)
    with pytest.raises(RepaError, match="unknown encoder 'dinov5'"):
        create_encoder("dinov5")


def test_names_may_be_combined_with_commas() -> None:
    assert check_encoder_names(",".join(ENCODERS)) == list(ENCODERS)
    assert check_encoder_names("none") == []


@pytest.mark.parametrize("names", ["none", "efficientnet-lite0,efficientnet-lite1"])
def test_one_encoder_needs_one_name(names: str) -> None:
    with pytest.raises(RepaError, match=f"expected the name of one encoder; got '{names}'"):
        create_encoder(names)


def test_creating_an_encoder_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    create_encoder("efficientnet-lite0", 32)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
