from importlib import import_module

import pytest
import torch
from torch import Tensor

from repa.evaluation import precision_recall


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


@pytest.mark.parametrize("block", [1, 7, 20, 21, 2048])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_it_is_the_definition_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch, k: int, block: int
) -> None:
    module = import_module("repa.evaluation.precision_recall")  # not the function of that name
    monkeypatch.setattr(module, "BLOCK", block)
    real, fake = points(21, 5, 0), points(15, 5, 1)
    fake[:, 0] += 1
    expected = brute_force(real, fake, k)
    assert precision_recall(real, fake, k) == pytest.approx(expected)
    assert min(expected) > 0
    assert max(expected) < 1
    assert precision_recall(fake, real, k) == pytest.approx(expected[::-1])


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
