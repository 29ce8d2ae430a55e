import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from repa.evaluation import kernel_distance
from repa.randomness import Purpose, stream


def features(count: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 12, generator=generator, dtype=torch.float64) * 2 + shift


def theirs(real: Tensor, fake: Tensor, **settings: object) -> float:
    settings = {"verbose": False, "kid_kernel": "poly", "kid_kernel_poly_degree": 3} | settings
    settings |= {"kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1, "rng_seed": 0}
    return kid_features_to_metric(real, fake, **settings)[KEY_METRIC_KID_MEAN]


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_it_is_torch_fidelitys(shift: float) -> None:
    """Subsets of all rows leave nothing to chance."""
    real, fake = features(40, 0), features(40, 1, shift)
    expected = theirs(real, fake, kid_subsets=3, kid_subset_size=40)
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_subsets_are_drawn_from_their_stream_and_averaged() -> None:
    real, fake = features(50, 0), features(60, 1, 0.2)
    expected = []
    for index in range(4):
        random = stream(7, Purpose.ANALYSIS, index)
        rows = (random.choice(50, 30, replace=False), random.choice(60, 30, replace=False))
        x, y = real[rows[0]], fake[rows[1]]
        expected.append(theirs(x, y, kid_subsets=1, kid_subset_size=30))
    ours = kernel_distance(real, fake, subsets=4, subset_size=30, seed=7)
    assert ours == pytest.approx(sum(expected) / 4, rel=1e-9)
    assert kernel_distance(real, fake, subsets=4, subset_size=30, seed=8) != ours
    assert kernel_distance(real, fake, subsets=4, subset_size=30, seed=7) == ours


def test_it_is_about_zero_of_one_distribution_and_grows_with_the_shift() -> None:
    values = [kernel_distance(features(800, 0), features(700, 1, s)) for s in (0.0, 0.1, 0.5)]
    assert abs(values[0]) < 0.01 < values[1] < values[2]


def test_half_precision_features_are_compared_in_double() -> None:
    real, fake = features(30, 0).half(), features(30, 1).half()
    assert kernel_distance(real, fake) == kernel_distance(real.double(), fake.double())


def test_sets_that_do_not_fit_are_an_error() -> None:
    for real, fake in (((1, 3), (9, 3)), ((9, 3), (1, 3)), ((9, 3), (9, 4))):
        with pytest.raises(ValueError, match="sets of"):
            kernel_distance(torch.zeros(real), torch.zeros(fake))
