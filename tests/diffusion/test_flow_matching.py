"""Flow matching with each kind of prediction: losses, and samples of an exact model."""

import pytest
import torch
from torch import Tensor

from repa.diffusion import FlowMatching
from repa.diffusion.flow_matching import NOISE_START

PATHS = ["linear", "cosine"]
KINDS = ["v", "eps", "x"]
MEAN, DEVIATION = 0.7, 0.4


class ExactModel:
    """The best prediction of each kind where data are N(MEAN, DEVIATION^2), noting the times."""

    def __init__(self, flow: FlowMatching):
        self.flow = flow
        self.times: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, time: Tensor) -> Tensor:
        self.times.append(float(t))
        alpha, sigma, d_alpha, d_sigma = self.flow.interpolant.coefficients(t)
        z = (x - alpha * MEAN) / ((alpha * DEVIATION) ** 2 + sigma**2)
        data, noise = MEAN + alpha * DEVIATION**2 * z, sigma * z
        velocity = d_alpha * data + d_sigma * noise
        return {"v": velocity, "eps": noise, "x": data}[self.flow.prediction]


def no_noise(step: int) -> Tensor:
    raise AssertionError("the ODE draws none")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_prediction_has_no_loss_and_no_other_has(path: str, kind: str) -> None:
    flow = FlowMatching(path, kind)
    x, noise = torch.randn(2, 3, 4, 8, 8)
    t = torch.tensor([0.0, 0.4, 1.0])
    _, velocity = flow.interpolant.interpolate(x, noise, t)
    targets = {"v": velocity, "eps": noise, "x": x}
    for other, prediction in targets.items():
        losses = flow.losses(prediction, x, noise, t)
        assert losses.keys() == {"denoising_loss"}
        assert (losses["denoising_loss"] == 0).all() == (other == kind)
    half = flow.losses(targets[kind].half() + 0.5, x, noise, t)["denoising_loss"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, torch.full((3,), 0.25), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("heun", [False, True])
def test_all_kinds_of_predictions_are_sampled_alike(path: str, heun: bool) -> None:
    noise = torch.linspace(-2, 2, 9)
    exact = MEAN + DEVIATION * noise.double()
    for kind in KINDS:
        flow = FlowMatching(path, kind)
        model = ExactModel(flow)
        x = flow.sample(model, noise, no_noise, "ode", 100, heun)
        assert (x - exact).abs().max() < 0.02
        assert model.times[0] == (NOISE_START if kind == "eps" else 1.0)
        assert min(model.times) > 0  # where data alone says nothing of the noise


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_sde_reaches_the_data_distribution(path: str, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    flow = FlowMatching(path, kind)

    def draw(step: int = 0) -> Tensor:
        return torch.randn(20_000, generator=generator)

    x = flow.sample(ExactModel(flow), draw(), draw, "sde", 100)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(DEVIATION, abs=0.02)


@pytest.mark.parametrize("path", PATHS)
def test_times_are_weighted(path: str) -> None:
    uniform = torch.rand(10)
    assert torch.equal(FlowMatching(path).sample_time(uniform), uniform)
    weighted = FlowMatching(path, weighting="lognormal").sample_time(uniform)
    expected = FlowMatching(path).interpolant.sample_time(uniform, "lognormal")
    assert torch.equal(weighted, expected)
    assert not torch.equal(weighted, uniform)


def test_the_model_sees_times_as_they_are() -> None:
    assert FlowMatching().model_time(0.3).item() == pytest.approx(0.3)


@pytest.mark.parametrize("arguments", [("linear", "score"), ("linear", "v", "cubic"), ("vp",)])
def test_unknown_names_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=arguments[-1]):
        FlowMatching(*arguments)
