import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repa.analysis import Representation, cka, cknna, compare, mutual_knn, similarity
from repa.errors import RepaError


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


def test_cka_is_that_of_centered_features() -> None:
    a, b = related()
    assert cka(a + 5, b - 3) == pytest.approx(cka(a, b), rel=1e-5)


def test_cka_of_rows_that_hardly_differ_is_that_of_their_differences() -> None:
    a, b = related()
    for small in (1e-3, 1e-5):
        close, scaled = 1 + small * a.double(), small * a.double()
        assert cka(close, close) == pytest.approx(1, rel=1e-9)
        assert cka(close, b) == pytest.approx(cka(a, b), rel=1e-6)
        assert cka(scaled, b) == pytest.approx(cka(a, b), rel=1e-6)


def test_rows_that_are_all_the_same_are_like_nothing() -> None:
    a, _ = related()
    same = torch.ones(120, 5)
    assert cka(same, a) == cka(same, same) == cka(same * 0, a) == 0
    rounded = same + 1e-7 * torch.rand(120, 5)  # the last digit of float32
    assert compare(Representation(rounded), Representation(a))["cka"] == 0


def test_features_that_share_no_neighbor_give_zero() -> None:
    n = 40
    angles = torch.arange(n) * (2 * torch.pi / n)
    ring = torch.stack([angles.cos(), angles.sin()], 1)
    shuffled = ring[torch.arange(n) * 7 % n]
    assert mutual_knn(ring, shuffled, 2) == 0
    assert cknna(ring, shuffled, 2) == 0


def related(n: int = 120) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    a = torch.randn(n, 12) * torch.rand(n, 1)
    return a, torch.cat([a[:, :6], torch.randn(n, 9)], dim=1)


def test_comparing_gives_the_three_metrics_of_rows_of_unit_length() -> None:
    a, b = related()
    unit_a, unit_b = (F.normalize(x.double()) for x in (a, b))
    expected = {
        "cknna": cknna(unit_a, unit_b, 7),
        "cka": cka(unit_a, unit_b),
        "mutual_knn": mutual_knn(a, b, 7),
    }
    assert compare(Representation(a, 7), Representation(b, 7)) == pytest.approx(expected, rel=1e-12)
    assert expected["cknna"] != pytest.approx(cknna(a, b, 7), rel=0.01)  # lengths mattered


def test_neighbors_are_found_once_for_many_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    topk = Tensor.topk
    monkeypatch.setattr(Tensor, "topk", lambda *args, **kw: calls.append(1) or topk(*args, **kw))
    a, b = (Representation(x) for x in related())
    assert not calls
    first = compare(a, b)
    assert len(calls) == 2
    assert compare(a, b) == first
    assert compare(b, a) == pytest.approx(first, rel=1e-3)  # CKNNA's masks are not symmetric
    assert compare(a, a)["mutual_knn"] == 1
    assert len(calls) == 2


def test_self_similarities_are_computed_once_for_many_comparisons(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    hsic = similarity._sparse_hsic
    monkeypatch.setattr(similarity, "_sparse_hsic", lambda *args: calls.append(1) or hsic(*args))
    a, b = (Representation(x) for x in related())
    compare(a, b)
    assert len(calls) == 3
    compare(a, b)
    assert len(calls) == 4


def test_half_precision_features_are_compared_as_float64() -> None:
    a, b = (x.half() for x in related())
    exact = compare(Representation(a.double()), Representation(b.double()))
    assert compare(Representation(a), Representation(b)) == pytest.approx(exact, rel=1e-12)


def test_a_row_of_zeros_does_no_harm() -> None:
    a, b = related()
    a[3] = 0
    assert all(0 < value < 1 for value in compare(Representation(a), Representation(b)).values())


SCRIPT = """
import re
from pathlib import Path
import torch
from repa.analysis import Representation, compare

def peak():  # in MiB; getrusage would count what this process was before it became Python
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**10

torch.manual_seed(0)
few, many = (Representation(torch.randn(n, 32)) for n in (100, 10_000))
compare(few, few)
before = peak()
compare(many, many)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")
def test_ten_thousand_rows_never_make_a_whole_kernel() -> None:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 50 < float(done.stdout) < 600  # a block is 78 MiB, a whole kernel 763


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one number of rows"):
        cknna(torch.randn(5, 2), torch.randn(6, 2), 2)
    with pytest.raises(ValueError, match="2 and 3 neighbors"):
        compare(Representation(torch.randn(5, 2), 2), Representation(torch.randn(5, 2), 3))
    with pytest.raises(ValueError, match="5 neighbors need more than 5 rows; got 5"):
        Representation(torch.randn(5, 2), 5)
    with pytest.raises(ValueError, match="more than 3 rows; got 3"):
        cka(torch.randn(3, 2), torch.randn(3, 2))
    with pytest.raises(ValueError, match=r"\(N, D\); got \(5, 2, 2\)"):
        Representation(torch.randn(5, 2, 2), 2)
    with pytest.raises(RepaError, match=r"^features to compare are not finite[^\n]*$"):
        cka(torch.randn(5, 2), torch.full((5, 2), torch.nan))
