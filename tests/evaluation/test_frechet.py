import pytest
import torch
from torch import Tensor

from repa.evaluation import Gaussian, frechet, frechet_distance


def features(count: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    shift = torch.randn(dim, generator=generator, dtype=torch.float64)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mixing + shift


def direct(real: Tensor, fake: Tensor) -> float:
    """The formula as it is written, with the complex root of a product that is not symmetric."""
    mean = (real.mean(0) - fake.mean(0)).square().sum()
    c_real, c_fake = torch.cov(real.T), torch.cov(fake.T)
    values, vectors = torch.linalg.eig(c_real @ c_fake)
    root = vectors @ values.sqrt().diag() @ torch.linalg.inv(vectors)
    assert (root.imag.abs() < 1e-6).all()
    return (mean + torch.trace(c_real + c_fake - 2 * root.real)).item()


@pytest.mark.parametrize("dim", [1, 2, 5, 24])
def test_it_is_the_written_formula(dim: int) -> None:
    for seed in range(3):
        real, fake = features(200, dim, seed), features(150, dim, seed + 10)
        if dim == 1:
            means, deviations = zip(*((x.mean(), x.std()) for x in (real, fake)), strict=True)
            expected = (means[0] - means[1]) ** 2 + (deviations[0] - deviations[1]) ** 2
        else:
            expected = direct(real, fake)
        assert frechet_distance(real, fake) == pytest.approx(float(expected), rel=1e-9)


def test_gaussians_with_commuting_covariances() -> None:
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    deviations = torch.rand(2, 6, generator=generator, dtype=torch.float64) * 3
    means = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    one, other = (
        Gaussian(mean, rotation @ (deviation**2).diag() @ rotation.T)
        for mean, deviation in zip(means, deviations, strict=True)
    )
    expected = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet_distance(one, other) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(("count", "dim"), [(50, 8), (5, 30), (2, 100)])
def test_identical_sets_have_distance_zero(count: int, dim: int) -> None:
    x = features(count, dim)
    scale = torch.cov(x.T).trace().item()
    assert 0 <= frechet_distance(x, x) < 1e-6 * scale
    assert 0 <= frechet_distance(x, x.flip(0)) < 1e-6 * scale


def test_a_shift_alone_counts_squared() -> None:
    x = features(40, 60)  # of deficient rank
    shift = torch.linspace(-1, 1, 60, dtype=torch.float64)
    expected = shift.square().sum().item()
    assert frechet_distance(x, x + shift) == pytest.approx(expected, rel=1e-5)


def test_covariances_of_deficient_rank_need_no_offset() -> None:
    # Both live in the same three of forty dimensions, where the formula is well conditioned.
    rotation, _ = torch.linalg.qr(features(40, 40))
    real, fake = features(30, 3, 1), features(20, 3, 2)
    lifted = [x @ rotation[:3] for x in (real, fake)]
    assert frechet_distance(*lifted) == pytest.approx(direct(real, fake), rel=1e-6)
    # Orthogonal supports share nothing.
    separate = frechet_distance(real @ rotation[:3], fake @ rotation[3:6])
    means = (real.mean(0).square().sum() + fake.mean(0).square().sum()).item()
    traces = (torch.cov(real.T).trace() + torch.cov(fake.T).trace()).item()
    assert separate == pytest.approx(means + traces, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "dim"), [(20, 30, 200), (150, 30, 200), (3, 3, 500)])
def test_few_samples_cost_no_accuracy(n: int, m: int, dim: int) -> None:
    """Of deficient rank, the root's trace is a sum of singular values of centered samples."""
    real, fake = features(n, dim, 1), features(m, dim, 2)
    x, y = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (real, fake))
    expected = (real.mean(0) - fake.mean(0)).square().sum() + x.square().sum() + y.square().sum()
    expected -= 2 * torch.linalg.svdvals(x @ y.T).sum()
    assert frechet_distance(real, fake) == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("count", [2, 9, 10, 11, 35])
def test_fitting_in_blocks_is_fitting_at_once(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(frechet, "ROWS", 10)
    x = (features(count, 6) + 50).float()
    gaussian = Gaussian.fit(x)
    torch.testing.assert_close(gaussian.mean, x.double().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(gaussian.covariance, torch.cov(x.double().T), rtol=1e-9, atol=1e-9)


def test_it_is_symmetric_and_takes_statistics_or_features() -> None:
    real, fake = features(100, 7, 1), features(90, 7, 2)
    distance = frechet_distance(real, fake)
    assert frechet_distance(fake, real) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(Gaussian.fit(real), fake) == distance
    assert frechet_distance(real, Gaussian.fit(fake)) == distance


def test_half_precision_features_are_fitted_in_double() -> None:
    x = (features(300, 4) + 100).half()
    gaussian = Gaussian.fit(x)
    assert gaussian.covariance.dtype == gaussian.mean.dtype == torch.float64
    torch.testing.assert_close(gaussian.covariance, torch.cov(x.double().T))


def test_what_cannot_be_fitted_is_an_error() -> None:
    for x in (torch.zeros(1, 4), torch.zeros(0, 4), torch.zeros(4), torch.zeros(2, 3, 4)):
        with pytest.raises(ValueError, match="at least two rows"):
            Gaussian.fit(x)
    with pytest.raises(ValueError, match="3 dimensions against 4"):
        frechet_distance(torch.randn(9, 3), torch.randn(9, 4))
