import pytest
import torch
from torch import Tensor

from repa.diffusion import GuidedModel, sample_ode


class CountingModel:
    """Predicts the condition, noting how many samples each call saw."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        assert x.dtype == t.dtype == torch.float32
        self.sizes.append(len(x))
        return condition.to(x.dtype)[:, None].expand_as(x)


def test_guidance_extrapolates_from_the_null_condition() -> None:
    field = GuidedModel(CountingModel(), torch.tensor([3]), torch.tensor([1]), cfg_scale=2.5)
    t = torch.tensor(0.5, dtype=torch.float64)
    velocity = field(torch.zeros(1, 4, dtype=torch.float64), t, t)
    assert velocity.dtype == torch.float64
    assert velocity.unique().tolist() == [1 + 2.5 * (3 - 1)]


def test_the_batch_is_doubled_only_inside_the_interval() -> None:
    model = CountingModel()
    null = torch.zeros(2)
    field = GuidedModel(model, torch.ones(2), null, 1.8, guidance_low=0.3, guidance_high=0.7)
    sample_ode(field, torch.zeros(2, 4), 10)  # t = 1, 0.9, ..., 0.1
    assert model.sizes == [2, 2, 2, 4, 4, 4, 4, 4, 2, 2]


def test_both_evaluations_of_a_heun_step_are_guided_alike() -> None:
    model = CountingModel()
    field = GuidedModel(model, torch.ones(2), torch.zeros(2), 1.8, guidance_low=0.45)
    sample_ode(field, torch.zeros(2, 4), 2, heun=True)  # t = 1 and its end 0.5, then t = 0.5
    assert model.sizes == [4, 4, 4]
    model.sizes.clear()
    field = GuidedModel(model, torch.ones(2), torch.zeros(2), 1.8, guidance_low=0.6)
    sample_ode(field, torch.zeros(2, 4), 2, heun=True)
    assert model.sizes == [4, 4, 2]


def test_a_scale_of_one_needs_no_null_condition() -> None:
    model = CountingModel()
    sample_ode(GuidedModel(model, torch.ones(2)), torch.zeros(2, 4), 3)
    assert model.sizes == [2, 2, 2]
    with pytest.raises(ValueError, match="null"):
        GuidedModel(model, torch.ones(2), cfg_scale=1.5)


class Sums:
    """Predicts the sum of a text's tokens (N, L)."""

    def __call__(self, x: Tensor, t: Tensor, texts: Tensor) -> Tensor:
        assert len(x) == len(t) == len(texts)
        return texts.sum(1)[:, None].expand_as(x)


@pytest.mark.parametrize("length", [3, 5])
def test_texts_of_another_length_than_the_null_one(length: int) -> None:
    texts, null = torch.ones(2, 4), torch.ones(2, length)
    field = GuidedModel(Sums(), texts, null, cfg_scale=3)
    velocity = field(torch.zeros(2, 4), torch.tensor(0.5), 0.5)
    assert velocity.tolist() == [[length + 3 * (4 - length)] * 4] * 2


class Labels:
    """Predicts, for a sample of label y, y in the first channel, 10 y in the next, and so on."""

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        channels = 10.0 ** torch.arange(2 * x.shape[1])
        return (y[:, None] * channels)[:, :, None, None].expand(-1, -1, *x.shape[2:])


@pytest.mark.parametrize("channels", [3, 4, None])
def test_the_first_channels_are_guided_and_the_rest_conditional(channels: int | None) -> None:
    y, null = torch.tensor([2.0, 5.0]), torch.tensor([1.0, 1.0])
    t = torch.tensor(700)
    guided = GuidedModel(Labels(), y, null, 3.0, guided_channels=channels)
    values = guided(torch.zeros(2, 4, 2, 2, dtype=torch.float64), t, 0.7)[:, :, 0, 0]
    scales = 10.0 ** torch.arange(8, dtype=torch.float64)
    count = 8 if channels is None else channels
    expected = torch.cat([scales[:count] * (1 + 3 * (2 - 1)), scales[count:] * 2])
    torch.testing.assert_close(values[0], expected)
