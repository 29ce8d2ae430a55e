import pytest
import torch
from torch import Tensor

from repa.diffusion import GuidedVelocity, Interpolant, sample_ode, sample_sde

MEAN, DEVIATION = 0.7, 0.4


class GaussianField:
    """The exact velocity when data are N(MEAN, DEVIATION^2), counting evaluations."""

    def __init__(self, path: str):
        self.interpolant, self.calls = Interpolant(path), 0

    def __call__(self, x: Tensor, t: Tensor, step_time: Tensor) -> Tensor:
        self.calls += 1
        alpha, sigma, d_alpha, d_sigma = self.interpolant.coefficients(t)
        z = (x - alpha * MEAN) / ((alpha * DEVIATION) ** 2 + sigma**2)
        return d_alpha * (MEAN + alpha * DEVIATION**2 * z) + d_sigma * sigma * z


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_ode_carries_noise_to_the_data_distribution(path: str) -> None:
    noise = torch.linspace(-2, 2, 9)
    exact = MEAN + DEVIATION * noise.double()  # quantiles go to quantiles
    errors = [
        (sample_ode(GaussianField(path), noise, steps, heun) - exact).abs().max().item()
        for steps, heun in ((25, False), (100, False), (25, True))
    ]
    assert errors[1] < errors[0] / 3  # first order
    assert errors[2] < errors[0] / 4  # second order, but for the last step
    assert errors[1] < 0.02


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_sde_reaches_the_data_distribution(path: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, generator=generator)
    x = sample_sde(
        GaussianField(path),
        noise,
        100,
        Interpolant(path),
        lambda step: torch.randn(20_000, generator=generator),
    )
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(DEVIATION, abs=0.02)


@pytest.mark.parametrize(("steps", "heun", "calls"), [(7, False, 7), (7, True, 13)])
def test_ode_evaluates_no_more_than_its_order_needs(steps: int, heun: bool, calls: int) -> None:
    field = GaussianField("linear")
    sample_ode(field, torch.randn(2), steps, heun)
    assert field.calls == calls


def test_sde_draws_noise_for_every_step_but_the_last() -> None:
    field, drawn = GaussianField("linear"), []

    def draw(step: int) -> Tensor:
        drawn.append(step)
        return torch.zeros(3)

    x = sample_sde(field, torch.randn(3), 6, Interpolant(), draw)
    assert drawn == [0, 1, 2, 3, 4]
    assert field.calls == 6
    assert x.dtype == torch.float64


class CountingModel:
    """Velocity = condition, noting how many samples each call saw."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        assert x.dtype == t.dtype == torch.float32
        self.sizes.append(len(x))
        return condition.to(x.dtype)[:, None].expand_as(x)


def test_guidance_extrapolates_from_the_null_condition() -> None:
    field = GuidedVelocity(CountingModel(), torch.tensor([3]), torch.tensor([1]), cfg_scale=2.5)
    t = torch.tensor(0.5, dtype=torch.float64)
    velocity = field(torch.zeros(1, 4, dtype=torch.float64), t, t)
    assert velocity.dtype == torch.float64
    assert velocity.unique().tolist() == [1 + 2.5 * (3 - 1)]


def test_the_batch_is_doubled_only_inside_the_interval() -> None:
    model = CountingModel()
    null = torch.zeros(2)
    field = GuidedVelocity(model, torch.ones(2), null, 1.8, guidance_low=0.3, guidance_high=0.7)
    sample_ode(field, torch.zeros(2, 4), 10)  # t = 1, 0.9, ..., 0.1
    assert model.sizes == [2, 2, 2, 4, 4, 4, 4, 4, 2, 2]


def test_both_evaluations_of_a_heun_step_are_guided_alike() -> None:
    model = CountingModel()
    field = GuidedVelocity(model, torch.ones(2), torch.zeros(2), 1.8, guidance_low=0.45)
    sample_ode(field, torch.zeros(2, 4), 2, heun=True)  # t = 1 and its end 0.5, then t = 0.5
    assert model.sizes == [4, 4, 4]
    model.sizes.clear()
    field = GuidedVelocity(model, torch.ones(2), torch.zeros(2), 1.8, guidance_low=0.6)
    sample_ode(field, torch.zeros(2, 4), 2, heun=True)
    assert model.sizes == [4, 4, 2]


def test_a_scale_of_one_needs_no_null_condition() -> None:
    model = CountingModel()
    sample_ode(GuidedVelocity(model, torch.ones(2)), torch.zeros(2, 4), 3)
    assert model.sizes == [2, 2, 2]
    with pytest.raises(ValueError, match="null"):
        GuidedVelocity(model, torch.ones(2), cfg_scale=1.5)
