from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from repa.analysis.hidden_states import pool_tokens
from repa.analysis.targets import encoder_tokens, pixel_features, target_states
from repa.data import PreparedDataset
from repa.encoders import create_encoder, resample_tokens
from repa.errors import RepaError

NAME = "efficientnet-lite0"
EVERY = range(64)


def test_cached_tokens_come_in_batches_with_their_images(emoji: PreparedDataset) -> None:
    batches = list(encoder_tokens(emoji, [5, 3, 8, 1, 9], NAME, batch_size=2))
    assert [list(indices) for indices, _ in batches] == [[5, 3], [8, 1], [9]]
    tokens = torch.cat([tokens for _, tokens in batches])
    assert torch.equal(tokens, emoji.features(NAME, [5, 3, 8, 1, 9]))


def test_an_encoder_gives_what_was_cached_of_it(emoji: PreparedDataset) -> None:
    encoder = create_encoder(NAME, 32, grid_size=4)
    computed = target_states(emoji, range(12), encoder, batch_size=5)
    assert computed.shape == (12, 112)
    torch.testing.assert_close(
        computed, target_states(emoji, range(12), NAME), rtol=0.01, atol=0.01
    )


def test_states_are_means_of_the_own_tokens_or_patches_of_the_backbones_grid(
    emoji: PreparedDataset,
) -> None:
    tokens = emoji.features(NAME, EVERY)
    torch.testing.assert_close(target_states(emoji, EVERY, NAME, batch_size=7), tokens.mean(1))
    patches = target_states(emoji, EVERY, NAME, 2, batch_size=7, pooling="patch")
    expected = pool_tokens(resample_tokens(tokens, 2), EVERY, "patch")
    torch.testing.assert_close(patches, expected)
    assert not torch.allclose(patches, target_states(emoji, EVERY, NAME, pooling="patch"))


def test_tokens_that_are_not_cached_are_one_clear_line(emoji: PreparedDataset) -> None:
    message = rf"no cached tokens of dinov2-vit-b \(cached: {NAME}\): add them with `repa prepare"
    with pytest.raises(RepaError, match=message):
        target_states(emoji, EVERY, "dinov2-vit-b")


def test_tokens_that_are_not_finite_are_one_clear_line(emoji: PreparedDataset) -> None:
    encoder = create_encoder(NAME, 32, grid_size=4)
    next(encoder.parameters()).fill_(torch.nan)
    with pytest.raises(RepaError, match=rf"^tokens of {NAME} are not finite numbers[^\n]*$"):
        target_states(emoji, range(2), encoder)


def test_pixels_are_averaged(emoji: PreparedDataset) -> None:
    features = pixel_features(emoji, EVERY)
    assert features.shape == (64, 768)
    images = torch.from_numpy(emoji.images(EVERY)).double() / 127.5 - 1
    blocks = images.reshape(64, 3, 16, 2, 16, 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(features.double(), blocks, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [8, 20])
def test_pixels_of_images_of_any_size(side: int) -> None:
    ramp = np.arange(side, dtype=np.uint8)[None, None, None].repeat(side, 2).repeat(3, 1)

    def images(indices: Sequence[int]) -> np.ndarray:
        return ramp.repeat(len(indices), 0)

    features = pixel_features(SimpleNamespace(images=images), range(300)).view(300, 3, 16, 16)
    assert torch.equal(features, features[:1, :1, :1].expand_as(features))
    row = (features[0, 0, 0] + 1) * 127.5
    assert row.diff().min() >= 0
    assert row.mean() == pytest.approx((side - 1) / 2, abs=1e-3)
    if side < 16:
        torch.testing.assert_close(row, torch.arange(8.0).repeat_interleave(2), atol=1e-4, rtol=0)
