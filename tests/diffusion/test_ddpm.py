"""Denoising diffusion: the loss's parts, and samples of an exact model."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from repa.diffusion import DDPM, Schedule
from repa.diffusion.ddpm import gaussian_kl, pixel_log_likelihood

MEAN, DEVIATION = 0.7, 0.4


def example() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (*torch.randn(2, 4, 3, 8, 8), torch.tensor([0, 1, 500, 999]))


def test_noise_is_added_as_the_schedule_says() -> None:
    x, noise, t = example()
    a = Schedule.linear().alphas_cumprod[t][:, None, None, None]
    expected = a.sqrt() * x + (1 - a).sqrt() * noise
    torch.testing.assert_close(DDPM().add_noise(x, noise, t), expected.float())
    at_500 = DDPM().add_noise(x, noise, torch.tensor(500))  # one step for all
    torch.testing.assert_close(at_500[2], expected[2].float())


def test_the_exact_prediction_has_no_loss_but_that_of_the_gray_levels() -> None:
    x, noise, t = example()
    posterior = torch.full_like(noise, -1.0)  # the variance that q has
    losses = DDPM().losses(torch.cat([noise, posterior], dim=1), x, noise, t)
    assert losses.keys() == {"denoising_loss", "mse_loss", "vb_loss"}
    assert losses["mse_loss"].tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(losses["vb_loss"][1:], torch.zeros(3), atol=1e-6, rtol=0)
    assert losses["vb_loss"][0] > 0
    torch.testing.assert_close(losses["denoising_loss"], losses["mse_loss"] + losses["vb_loss"])


def test_the_bound_trains_the_variance_and_the_squared_error_the_noise() -> None:
    x, noise, t = example()
    prediction = torch.randn(4, 6, 8, 8, requires_grad=True)
    losses = DDPM().losses(prediction, x, noise, t)
    (by_bound,) = torch.autograd.grad(losses["vb_loss"].sum(), prediction, retain_graph=True)
    (by_error,) = torch.autograd.grad(losses["mse_loss"].sum(), prediction)
    assert (by_bound[:, :3] == 0).all()
    assert (by_bound[:, 3:].abs().amax((1, 2, 3)) > 0).all()
    assert by_bound.isfinite().all()
    assert (by_error[:, :3].abs().amax((1, 2, 3)) > 0).all()
    assert (by_error[:, 3:] == 0).all()


def test_losses_of_half_precision_are_those_of_its_values_in_float32() -> None:
    x, noise, t = example()
    prediction = torch.randn(4, 6, 8, 8).bfloat16()
    half, full = (DDPM().losses(p, x, noise, t) for p in (prediction, prediction.float()))
    for name, values in full.items():
        assert half[name].dtype == torch.float32
        assert torch.equal(half[name], values)


def test_a_model_without_variances_has_the_squared_error_alone() -> None:
    x, noise, t = example()
    losses = DDPM().losses(noise + 2, x, noise, t)
    assert losses.keys() == {"denoising_loss"}
    torch.testing.assert_close(losses["denoising_loss"], torch.full((4,), 4.0))


def test_divergence_is_that_of_two_gaussians() -> None:
    distance, one, other = torch.randn(3, 100, dtype=torch.float64)
    p, q = Normal(distance, (0.5 * one).exp()), Normal(0 * distance, (0.5 * other).exp())
    torch.testing.assert_close(gaussian_kl(distance, one, other), kl_divergence(p, q))


@pytest.mark.parametrize("mean", [-1.2, 0.0, 0.4, 1.0])
def test_probabilities_of_all_gray_levels_are_one(mean: float) -> None:
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for deviation in (0.003, 0.05, 1.0):
        log_variance = torch.tensor(2 * math.log(deviation), dtype=torch.float64)
        logs = pixel_log_likelihood(levels, levels - mean, log_variance)
        assert logs.exp().sum().item() == pytest.approx(1, abs=1e-9)
    density = Normal(mean, 1.0).log_prob(levels[1:-1]) + math.log(2 / 255)
    torch.testing.assert_close(logs[1:-1], density, atol=0.02, rtol=0)


@pytest.mark.parametrize("value", [-1.3, -1.0, 0.2, 1.0, 1.3])
@pytest.mark.parametrize("error", [-0.8, 0.5])
def test_the_last_step_is_the_probability_of_the_gray_level(value: float, error: float) -> None:
    """At t = 0, from the mean that the predicted noise gives; the noise decides on its side."""
    torch.manual_seed(0)
    x, noise = torch.full((1, 1, 2, 2), value), torch.randn(1, 1, 2, 2)
    t, predicted = torch.zeros(1, dtype=torch.int64), noise + error
    a = Schedule.linear().alphas_cumprod[0].item()
    x_t = DDPM().add_noise(x, noise, t).double()
    mean = (x_t - (1 - a) ** 0.5 * predicted.double()) / a**0.5
    deviation = (Schedule.linear().posterior_variances[0].item()) ** 0.5

    def below(edge: float) -> Tensor:
        z = (edge - mean + value) / deviation
        return 0.5 * (1 + torch.tanh((2 / math.pi) ** 0.5 * (z + 0.044715 * z**3)))

    low, high = below(-1 / 255), below(1 / 255)
    low, high = (0 * low, high) if value < -0.999 else (low, high)
    high = high / high if value > 0.999 else high
    bits = -(high - low).clamp(min=1e-12).log().mean() / math.log(2)
    losses = DDPM().losses(torch.cat([predicted, -torch.ones_like(x)], 1), x, noise, t)
    torch.testing.assert_close(losses["vb_loss"].double(), bits[None], rtol=2e-4, atol=2e-4)


def test_a_hopeless_gray_level_has_a_finite_probability_and_gradient() -> None:
    log_variance = torch.full((3,), -9.0, requires_grad=True)
    x = torch.tensor([0.0, -1.0, 1.0])
    logs = pixel_log_likelihood(x, torch.tensor([5.0, -5.0, 5.0]), log_variance)
    assert logs.isfinite().all()
    assert logs[0].item() == pytest.approx(math.log(1e-12))
    logs.sum().backward()
    assert log_variance.grad.isfinite().all()


def test_times_are_the_steps_all_equally_likely() -> None:
    uniform = (torch.arange(100_000) + 0.5) / 100_000
    times = DDPM().sample_time(uniform)
    assert times.dtype == torch.int64
    assert times.bincount().tolist() == [100] * 1000
    largest = torch.tensor([0.0, torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))])
    assert DDPM().sample_time(largest).tolist() == [0, 999]


def test_parts_of_the_way_are_steps() -> None:
    assert [DDPM().model_time(time).item() for time in (0, 0.5, 1)] == [0, 500, 999]


class ExactModel:
    """Noise, and where wanted variances, of data N(MEAN, DEVIATION^2), noting calls."""

    def __init__(self, variance: float | None):
        self.variance = variance
        self.calls: list[tuple[int, float]] = []

    def __call__(self, x: Tensor, t: Tensor, time: Tensor) -> Tensor:
        self.calls.append((int(t), float(time)))
        a = Schedule.linear().alphas_cumprod[t]
        spread = a * DEVIATION**2 + 1 - a
        e = (1 - a).sqrt() * (x - a.sqrt() * MEAN) / spread
        if self.variance is None:
            return e
        return torch.cat([e, torch.full_like(e, self.variance)], dim=1)


def draws(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.randn(20_000, 1, generator=generator, dtype=torch.float64)


def test_ddim_carries_noise_to_the_data_distribution() -> None:
    noise = torch.linspace(-2, 2, 9)[:, None]
    a = Schedule.linear().alphas_cumprod[-1]  # the last step has a little signal left
    exact = MEAN + DEVIATION * (noise.double() - a.sqrt() * MEAN)
    errors = []
    for steps in (10, 50, 250):
        model = ExactModel(0.3)
        x = DDPM().sample(model, noise, draws(), "ddim", steps)
        assert x.dtype == torch.float64
        assert len(model.calls) == steps
        errors.append((x - exact).abs().max().item())
    assert errors[2] < errors[1] / 3 < errors[0] / 9  # first order
    assert errors[2] < 0.02


@pytest.mark.parametrize("variance", [-1.0, 1.0, None])
def test_ddpm_reaches_the_data_distribution(variance: float | None) -> None:
    draw = draws()
    x = DDPM().sample(ExactModel(variance), draw(0), draw, "ddpm", 500)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(DEVIATION, abs=0.02)


def test_the_learned_variance_lies_between_the_two_of_the_process() -> None:
    """Of two steps, the first one's noise is scaled by it."""
    spreads = []
    for variance in (-1.0, 0.0, 1.0):
        model, draw = ExactModel(variance), draws()
        still, moved = (
            DDPM().sample(model, torch.zeros(20_000, 1), noise, "ddpm", 20)
            for noise in (lambda step: torch.zeros(20_000, 1), draw)
        )
        spreads.append((moved - still).std().item())
    assert spreads[0] < spreads[1] < spreads[2]


def test_without_a_prediction_the_variance_is_beta() -> None:
    start = torch.zeros(20_000, 1)
    drawn = [DDPM().sample(ExactModel(v), start, draws(), "ddpm", 20) for v in (1.0, None)]
    assert drawn[0].dtype == drawn[1].dtype == torch.float64
    torch.testing.assert_close(drawn[0], drawn[1])


def test_ddpm_draws_noise_for_every_step_but_the_last_and_tells_the_time() -> None:
    model, drawn = ExactModel(0.0), []

    def draw(step: int) -> Tensor:
        drawn.append(step)
        return torch.zeros(3, 1)

    DDPM().sample(model, torch.randn(3, 1), draw, "ddpm", 5)
    assert drawn == [0, 1, 2, 3]
    steps, times = zip(*model.calls, strict=True)
    assert steps == (999, 749, 500, 250, 0)
    assert times == tuple(step / 999 for step in steps)


def test_its_tables_are_no_weights() -> None:
    ddpm = DDPM()
    assert not ddpm.state_dict()
    assert not list(ddpm.parameters())
