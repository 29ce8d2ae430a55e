import pytest
import torch
from torch import Tensor

from repa.diffusion import Interpolant, sample_ode, sample_sde

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

    seen = []

    def noting(x: Tensor, t: Tensor, step_time: Tensor) -> Tensor:
        seen.append(t.item())
        return field(x, t, step_time)

    x = sample_sde(noting, torch.randn(3), 6, Interpolant(), draw)
    assert seen == pytest.approx([1 - 0.96 * i / 5 for i in range(6)], abs=1e-12)
    assert drawn == [0, 1, 2, 3, 4]
    assert field.calls == 6
    assert x.dtype == torch.float64
