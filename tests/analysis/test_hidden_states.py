from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from repa.analysis.hidden_states import hidden_states, pool_tokens
from repa.autoencoders import from_uint8
from repa.data import PreparedDataset
from repa.diffusion import DDPM, FlowMatching
from repa.errors import RepaError
from repa.models import DiT, SiT


def tiny(dataset: PreparedDataset, **changes) -> SiT:
    arguments = {"input_size": 32, "patch_size": 8, "in_channels": 3, "hidden_size": 32}
    arguments |= {"depth": 3, "num_heads": 2, "num_classes": dataset.num_classes}
    torch.manual_seed(0)
    model = SiT(**(arguments | changes))
    for block in model.blocks:  # else blocks change nothing
        torch.nn.init.normal_(block.adaLN_modulation[1].weight, std=0.1)
    return model


def states_of(model: SiT, dataset: PreparedDataset, indices: range, **options) -> Tensor:
    return hidden_states(model, dataset, indices, (1, 3), FlowMatching(), **options)


@pytest.mark.parametrize("pooling", ["mean", "patch"])
def test_states_do_not_depend_on_the_batch(emoji: PreparedDataset, pooling: str) -> None:
    model = tiny(emoji)
    whole = states_of(model, emoji, range(10), pooling=pooling)
    assert whole.shape == (2, 10, 32)
    torch.testing.assert_close(
        whole, states_of(model, emoji, range(10), batch_size=3, pooling=pooling)
    )
    last = states_of(model, emoji, range(5, 10), batch_size=4, pooling=pooling)
    torch.testing.assert_close(whole[:, 5:], last)
    assert not torch.allclose(whole, states_of(model, emoji, range(10), time=0.9, pooling=pooling))


def test_states_are_those_of_the_blocks_in_the_given_order_from_one_pass(
    emoji: PreparedDataset,
) -> None:
    model = tiny(emoji)
    seen: dict[int, Tensor] = {}
    calls = []
    for depth, block in enumerate(model.blocks, start=1):

        def look(*call, depth: int = depth) -> None:
            calls.append(depth)
            seen[depth] = call[-1]

        block.register_forward_hook(look)
    states = hidden_states(model, emoji, range(4), (3, 1, 2), FlowMatching(), time=0.0)
    assert calls == [1, 2, 3]
    for layer, depth in zip(states, (3, 1, 2), strict=True):
        torch.testing.assert_close(layer, seen[depth].mean(1))

    [patches] = hidden_states(model, emoji, range(4), (2,), FlowMatching(), 0.0, pooling="patch")
    for i in range(4):  # a token of its own image
        distances = (seen[2][i] - patches[i]).abs().amax(1)
        assert distances.min() < 1e-6 < distances.median()


def test_a_patch_is_at_one_place_on_all_grids_and_at_another_in_the_next_image() -> None:
    def places(side: int, indices: range) -> Tensor:
        numbers = torch.arange(float(side**2))[None, :, None].expand(len(indices), -1, 1)
        return pool_tokens(numbers, indices, "patch")[:, 0]

    few, many = places(4, range(300)), places(16, range(300))
    assert torch.equal((many / 16).floor(), few)
    assert torch.equal(places(4, range(100, 200)), few[100:200])
    counts = torch.bincount(few.long(), minlength=16)
    assert counts.min() > 5  # 19 expected
    assert counts.max() < 40


def test_the_model_sees_the_null_class_and_noise_of_the_image_alone(emoji: PreparedDataset) -> None:
    model = tiny(emoji)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    states_of(model, emoji, range(3), time=1.0)
    states_of(model, emoji, range(2, 3), time=1.0)
    (noise, t, y), (alone, _, _) = seen
    assert t.tolist() == [1, 1, 1]
    assert y.tolist() == [emoji.num_classes] * 3
    assert torch.equal(noise[2:], alone)
    assert noise.std() == pytest.approx(1, abs=0.05)


def test_latents_are_drawn_from_their_posterior() -> None:
    class Latents:
        """Ten images with latents of mean 3 and the given deviation."""

        def __init__(self, std: float):
            autoencoder = SimpleNamespace(name="vae", scale=0.5, shift=1, latent_shape=(4, 8, 8))
            self.manifest = SimpleNamespace(autoencoder=autoencoder)
            self.moments = np.full((10, 8, 8, 8), 3, np.float32)
            self.moments[:, 4:] = std

        def read(self, indices: range, keys: list[str]) -> dict[str, np.ndarray]:
            assert keys == ["latent"]
            return {"latent": self.moments[list(indices)]}

    model = SiT(input_size=8, hidden_size=32, depth=3, num_heads=2, num_classes=5)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for std, time in ((0, 0.0), (2, 0.0), (2, 1.0)):
        hidden_states(model, Latents(std), range(10), (1,), FlowMatching(), time)
    still, drawn, noise = seen
    assert still.eq(1).all()  # (3 - 1) 0.5
    assert (drawn.mean(), drawn.std()) == (pytest.approx(1, abs=0.1), pytest.approx(1, abs=0.1))
    assert abs((drawn * noise).mean()) < 0.1  # independent of the noise that is added


@pytest.mark.parametrize(
    ("changes", "depths", "message"),
    [
        ({"class_dropout_prob": 0.0}, (1,), "no null class"),
        ({}, (1, 4), "no block 4 to look after: the model has 3"),
        ({}, (0,), "no block 0"),
        ({"input_size": 16}, (1,), r"takes latents of shape \(3, 16, 16\).*has \(3, 32, 32\)"),
        ({"in_channels": 4}, (1,), "takes latents of shape"),
    ],
)
def test_what_cannot_be_looked_into_is_one_clear_line(
    emoji: PreparedDataset, changes: dict, depths: tuple[int, ...], message: str
) -> None:
    with pytest.raises(RepaError, match=message):
        hidden_states(tiny(emoji, **changes), emoji, range(4), depths, FlowMatching())


def test_a_diffusion_model_sees_its_own_steps_and_noise(emoji: PreparedDataset) -> None:
    model = DiT(input_size=32, patch_size=8, in_channels=3, hidden_size=32, depth=1, num_heads=2)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    for time in (0.0, 0.5, 1.0):
        hidden_states(model, emoji, range(4), (1,), DDPM(), time)
    (clean, first, _), (_, middle, _), (noise, last, _) = seen
    assert [t.unique().tolist() for t in (first, middle, last)] == [[0], [500], [999]]
    images = from_uint8(torch.from_numpy(emoji.images(range(4))))
    assert (clean - images).abs().max() < 0.1
    assert noise.std() == pytest.approx(1, abs=0.05)
    correlation = torch.corrcoef(torch.stack([noise.flatten(), images.flatten()]))[0, 1]
    assert abs(correlation) < 0.05


def test_tokens_of_half_precision_are_averaged_in_float32() -> None:
    tokens = torch.randn(3, 16, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(pool_tokens(tokens, range(3), "mean"), tokens.float().mean(1))
