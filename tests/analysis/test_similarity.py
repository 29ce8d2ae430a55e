import pytest
import torch
from torch import Tensor

from repa.analysis import cka, cknna, mutual_knn, similarity


def dense_cknna(a: Tensor, b: Tensor, k: int) -> float:
    """The definition with whole (N, N) matrices, independent of the sparse implementation."""
    a, b = a.double(), b.double()
    n = len(a)
    kernels = [x @ x.T for x in (a, b)]
    masks = []
    for kernel in kernels:
        without_self = kernel - torch.diag(torch.full((n,), torch.inf, dtype=torch.float64))
        nearest = without_self.topk(k, dim=1).indices
        masks.append(torch.zeros(n, n, dtype=torch.float64).scatter_(1, nearest, 1.0))

    def hsic(x: Tensor, y: Tensor) -> Tensor:
        total = x.sum() * y.sum() / ((n - 1) * (n - 2))
        return ((x * y.T).sum() + total - 2 * (x @ y).sum() / (n - 2)) / (n * (n - 3))

    both = masks[0] * masks[1]
    cross = hsic(both * kernels[0], both * kernels[1])
    own = [hsic(m * x, m * x) for m, x in zip(masks, kernels, strict=True)]
    return (cross / ((own[0] * own[1]).sqrt() + 1e-6)).item()


@pytest.mark.parametrize("block", [7, 64, 1024])
def test_cknna_equals_its_dense_definition(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "BLOCK", block)
    torch.manual_seed(0)
    a = torch.randn(150, 12)
    b = torch.cat([a[:, :6], torch.randn(150, 9)], dim=1)
    for k in (2, 10, 100):
        assert cknna(a, b, k) == pytest.approx(dense_cknna(a, b, k), rel=1e-9)


def test_similar_features_score_higher_than_unrelated_ones() -> None:
    torch.manual_seed(0)
    a = torch.randn(200, 16)
    close, unrelated = a + 0.1 * torch.randn(200, 16), torch.randn(200, 16)
    for metric in (cknna, cka, mutual_knn):
        assert metric(a, close) > 0.5 > metric(a, unrelated)


def test_rotation_and_scale_change_nothing() -> None:
    torch.manual_seed(0)
    a = torch.randn(100, 8, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    assert cknna(a, 3 * a @ rotation) == pytest.approx(cknna(a, a), rel=1e-4)
    assert cka(a, 3 * a @ rotation) == pytest.approx(1, rel=1e-4)
    assert mutual_knn(a, 3 * a @ rotation) == 1


def test_features_that_share_no_neighbor_give_zero() -> None:
    n = 40
    angles = torch.arange(n) * (2 * torch.pi / n)
    ring = torch.stack([angles.cos(), angles.sin()], 1)
    shuffled = ring[torch.arange(n) * 7 % n]
    assert mutual_knn(ring, shuffled, 2) == 0
    assert cknna(ring, shuffled, 2) == 0


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one N"):
        cknna(torch.randn(5, 2), torch.randn(6, 2), 2)
    with pytest.raises(ValueError, match="rows"):
        cknna(torch.randn(5, 2), torch.randn(5, 2), 5)
