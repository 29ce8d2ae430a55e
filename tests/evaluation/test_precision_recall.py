import pytest
import torch
from torch import Tensor

from repa.evaluation import blocks, precision_recall


def brute_force(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
    """The definition, point by point."""

    def radius(points: Tensor, i: int) -> float:
        others = sorted((points[j] - points[i]).norm().item() for j in range(len(points)) if j != i)
        return others[k - 1]

    def covered(points: Tensor, centers: Tensor) -> float:
        radii = [radius(centers, i) for i in range(len(centers))]
        hits = [
            any((point - c).norm() <= r for c, r in zip(centers, radii, strict=True))
            for point in points
        ]
        return sum(hits) / len(hits)

    return covered(fake, real), covered(real, fake)


def points(count: int, dim: int, seed: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) * spread


@pytest.fixture
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(blocks, "block_side", lambda dim: request.param)
    return request.param


BLOCKS = pytest.mark.parametrize("block", [1, 2, 7, 20, 21, 2048], indirect=True)


@BLOCKS
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_it_is_the_definition_whatever_the_blocks(k: int, block: int) -> None:
    real, fake = points(21, 5, 0), points(15, 5, 1)
    fake[:, 0] += 1
    expected = brute_force(real, fake, k)
    assert precision_recall(real, fake, k) == pytest.approx(expected)
    assert min(expected) > 0
    assert max(expected) < 1
    assert precision_recall(fake, real, k) == pytest.approx(expected[::-1])


@BLOCKS
@pytest.mark.parametrize("k", [1, 3, 5])
def test_points_on_the_surface_of_a_ball_are_in_it(k: int, block: int) -> None:
    """On a lattice nearly all are; its distances are exact in the definition, not in products."""
    generator = torch.Generator().manual_seed(k)
    lattice = torch.randint(0, 3, (23, 4), generator=generator).double()
    real, fake = lattice + torch.tensor([1000.0, 0, 0, 0]), lattice[:17].flip(1)
    fake = fake + torch.tensor([1000.0, 0, 0, 1])
    expected = brute_force(real, fake, k)
    assert precision_recall(real, fake, k) == expected
    assert precision_recall(fake, real, k) == expected[::-1]
    assert precision_recall(real * 0.3, fake * 0.3, k) == expected


@BLOCKS
@pytest.mark.parametrize("copies", [2, 4, 6])
def test_duplicates_are_neighbors_too(copies: int, block: int) -> None:
    """With more than k copies of a point its ball is that point, whose copies it still covers."""
    real = points(5, 6, 0).repeat(copies, 1)
    fake = torch.cat([points(5, 6, 0)[:3].repeat(copies, 1), points(6, 6, 1) + 4])
    expected = brute_force(real, fake, 3)
    assert precision_recall(real, fake, 3) == pytest.approx(expected, abs=1e-12)
    assert precision_recall(fake, real, 3) == pytest.approx(expected[::-1], abs=1e-12)


def test_equal_sets_cover_each_other() -> None:
    x = points(50, 8, 0)
    assert precision_recall(x, x) == (1.0, 1.0)


def test_distant_sets_do_not_touch() -> None:
    x = points(50, 8, 0)
    assert precision_recall(x, x + 100) == (0.0, 0.0)


def test_few_modes_have_precision_without_recall() -> None:
    real = torch.cat([points(30, 4, i, 0.1) + 10 * i for i in range(5)])
    precision, recall = precision_recall(real, points(30, 4, 0, 0.09))
    assert precision > 0.9
    assert recall < 0.25


def test_a_large_offset_costs_no_accuracy() -> None:
    real, fake = points(60, 5, 0), points(60, 5, 1)
    offset = torch.full((5,), 2.0**16, dtype=torch.float64)
    exact = [((x + offset) - offset) for x in (real, fake)]  # as rounded by the sum
    assert precision_recall(real + offset, fake + offset) == precision_recall(*exact)


def test_half_precision_features_are_compared_in_double() -> None:
    real, fake = points(60, 5, 0).half(), points(60, 5, 1).half()
    assert precision_recall(real, fake) == precision_recall(real.double(), fake.double())


@pytest.mark.parametrize(("n", "m"), [(3, 10), (10, 3), (0, 10)])
def test_sets_too_small_for_k_are_an_error(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="k = 3"):
        precision_recall(torch.randn(n, 2), torch.randn(m, 2))
    assert precision_recall(points(4, 2, 0), points(4, 2, 0)) == (1.0, 1.0)


def test_other_dimensions_are_an_error() -> None:
    with pytest.raises(ValueError, match="k = 3 with sets of"):
        precision_recall(torch.randn(9, 2), torch.randn(9, 3))
