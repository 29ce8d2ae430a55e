import numpy as np
import pytest
import torch

from repa.diffusion import Schedule


def test_the_whole_process_leads_from_data_to_noise() -> None:
    schedule = Schedule.linear()
    assert schedule.steps.tolist() == list(range(1000))
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-9)
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1 - betas), rtol=1e-12)
    assert schedule.alphas_cumprod[-1] == pytest.approx(4.036e-5, rel=1e-3)  # known of DDPM


def test_fewer_steps_are_of_the_same_process() -> None:
    whole, some = Schedule.linear(), Schedule.linear().respaced(20)
    assert (len(some.steps), some.steps[0], some.steps[-1]) == (20, 0, 999)
    assert torch.equal(some.alphas_cumprod, whole.alphas_cumprod[some.steps])
    kept = (1 - some.betas).cumprod(0)  # of the signal's square, when these noises are added
    torch.testing.assert_close(kept, some.alphas_cumprod)
    assert torch.equal(whole.respaced(1000).steps, whole.steps)


@pytest.mark.parametrize(
    ("num_steps", "place", "step"),
    # Halves between two steps, as ADM's code rounds the sums it has there.
    [(21, 10, 499), (23, 11, 499), (31, 15, 500), (3, 1, 500)],
)
def test_halves_are_rounded_as_the_published_code_does(num_steps, place, step) -> None:
    total, stride, chosen = 0.0, 999 / (num_steps - 1), []
    for _ in range(num_steps):
        chosen.append(round(total))
        total += stride
    steps = Schedule.linear().respaced(num_steps).steps.tolist()
    assert steps == chosen
    assert steps[place] == step


@pytest.mark.parametrize("num_steps", [1, 1001])
def test_steps_that_the_process_has_not_are_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=rf"{num_steps} steps: expected 2 to 1000"):
        Schedule.linear().respaced(num_steps)


@pytest.mark.parametrize("num_steps", [7, 1000])
def test_the_posterior_is_that_of_a_gaussian_chain(num_steps: int) -> None:
    """q(x_(i-1) | x_i, x) by Bayes' rule from q(x_i | x_(i-1)) and q(x_(i-1) | x)."""
    schedule = Schedule.linear().respaced(num_steps)
    x, noise = 0.3, -1.2
    r, k = schedule.mean_scales
    for i in range(1, num_steps, num_steps // 7):
        a, before, beta = (
            float(values[i])
            for values in (
                schedule.alphas_cumprod, schedule.alphas_cumprod_before, schedule.betas,
            )
        )  # fmt: skip
        x_i = a**0.5 * x + (1 - a) ** 0.5 * noise
        precision = (1 - beta) / beta + 1 / (1 - before)
        mean = ((1 - beta) ** 0.5 / beta * x_i + before**0.5 / (1 - before) * x) / precision
        assert float(schedule.posterior_variances[i]) == pytest.approx(1 / precision)
        assert float(r[i] * x_i - k[i] * noise) == pytest.approx(mean)
    assert schedule.posterior_variances[0] == schedule.posterior_variances[1]
