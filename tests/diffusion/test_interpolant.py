import pytest
import torch

from repa.diffusion import Interpolant

PATHS = ["linear", "cosine"]


@pytest.mark.parametrize("path", PATHS)
def test_path_leads_from_data_to_noise(path: str) -> None:
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    at_data, _ = Interpolant(path).interpolate(x, noise, torch.zeros(2))
    at_noise, _ = Interpolant(path).interpolate(x, noise, torch.ones(2))
    torch.testing.assert_close(at_data, x)
    torch.testing.assert_close(at_noise, noise, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_velocity_is_the_derivative_of_the_path(path: str) -> None:
    x, noise = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    interpolant, step = Interpolant(path), 1e-6
    _, velocity = interpolant.interpolate(x, noise, t)
    ahead, _ = interpolant.interpolate(x, noise, t + step)
    behind, _ = interpolant.interpolate(x, noise, t - step)
    torch.testing.assert_close(velocity, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_score_of_a_gaussian_is_exact(path: str) -> None:
    """For data N(m, s^2), velocity and score at x have closed forms."""
    interpolant, mean, deviation = Interpolant(path), 0.7, 0.4
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for time in (0.1, 0.5, 0.99):
        t = torch.tensor(time, dtype=torch.float64)
        alpha, sigma, d_alpha, d_sigma = interpolant.coefficients(t)
        variance = (alpha * deviation) ** 2 + sigma**2
        z = (x - alpha * mean) / variance
        velocity = d_alpha * (mean + alpha * deviation**2 * z) + d_sigma * sigma * z
        torch.testing.assert_close(interpolant.score(velocity, x, t), -z)


def test_uniform_times_are_the_numbers_themselves() -> None:
    uniform = torch.rand(10)
    assert torch.equal(Interpolant().sample_time(uniform, "uniform"), uniform)


@pytest.mark.parametrize("path", PATHS)
def test_lognormal_times_have_lognormal_noise_ratio(path: str) -> None:
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    interpolant = Interpolant(path)
    t = interpolant.sample_time(uniform, "lognormal").double()
    alpha, sigma, _, _ = interpolant.coefficients(t)
    logs = (sigma / alpha).log()
    assert logs.mean().item() == pytest.approx(0, abs=1e-3)
    assert logs.std().item() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("path", PATHS)
def test_lognormal_times_are_finite_at_the_ends(path: str) -> None:
    ends = torch.tensor([0.0, 1 - 2**-24])
    t = Interpolant(path).sample_time(ends, "lognormal")
    assert t.isfinite().all()
    assert t[0] == 0
    assert t[1] <= 1


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="quadratic"):
        Interpolant("quadratic")
    with pytest.raises(ValueError, match="cubic"):
        Interpolant().sample_time(torch.rand(1), "cubic")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("time", [0.0, 1e-3, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["v", "eps", "x"])
def test_data_and_noise_come_back_from_each_prediction(path: str, time: float, kind: str) -> None:
    """Wherever the prediction says both: not from noise at t = 1, nor from data at t = 0."""
    if (kind, time) in (("eps", 1.0), ("x", 0.0)):
        return
    x, noise = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64)
    interpolant, t = Interpolant(path), torch.full((3,), time, dtype=torch.float64)
    x_t, velocity = interpolant.interpolate(x, noise, t)
    prediction = {"v": velocity, "eps": noise, "x": x}[kind]
    data, found = interpolant.split(prediction, kind, x_t, t)
    torch.testing.assert_close(data, x)
    torch.testing.assert_close(found, noise)
    torch.testing.assert_close(interpolant.velocity(prediction, kind, x_t, t), velocity)
    scalar = interpolant.velocity(prediction, kind, x_t, t[0])
    torch.testing.assert_close(scalar, velocity)


@pytest.mark.parametrize("path", PATHS)
def test_the_score_is_that_of_the_noise(path: str) -> None:
    x, noise = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64)
    interpolant, t = Interpolant(path), torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64)
    x_t, velocity = interpolant.interpolate(x, noise, t)
    _, sigma, _, _ = interpolant.coefficients(t)
    score = interpolant.score(velocity, x_t, t)
    torch.testing.assert_close(score, -noise / sigma[:, None, None, None])


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="score"):
        Interpolant().split(torch.ones(1, 1), "score", torch.ones(1, 1), torch.ones(1))
