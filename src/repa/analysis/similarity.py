"""How alike two representations of the same images are: CKNNA, CKA and mutual nearest neighbors.

Definitions as in the Platonic Representation Hypothesis (Huh et al., ICML 2024). Kernels are inner
products. Only each row's k largest entries are kept, so memory grows with N k and not with N^2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1024  # rows of the kernel in memory at a time
EPSILON = 1e-6  # of the published definition: no division by zero


def cknna(features_a: Tensor, features_b: Tensor, k: int = 10) -> float:
    """Centered kernel nearest-neighbor alignment: CKA over the pairs that are neighbors in both.

    Both kernels are masked to the pairs (i, j) where j is among the k nearest neighbors of i in a
    and in b; the result is `HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))` with the unbiased HSIC
    (Huh et al., Appendix A; Song et al., 2012).

    Lengths of rows matter: the published protocol scales each to 1 before. Without that, a few long
    rows are every image's neighbors.

    Args:
        features_a: (N, D_a), floating; rows are the same images as in `features_b`.
        features_b: (N, D_b), floating.
        k: number of neighbors, 2 <= k < N.

    Returns:
        At most about 1, higher is more alike; around 0 for unrelated features.

    Raises:
        ValueError: if the numbers of rows differ, or k does not fit them.
    """
    a, b = _paired(features_a, features_b, k)
    neighbors_a, neighbors_b = _neighbors(a, k), _neighbors(b, k)
    n = len(a)
    rows = torch.arange(n, device=a.device)[:, None].expand(n, k)
    in_both = _shared(neighbors_a, neighbors_b)

    def hsic(x: Tensor, y: Tensor, keep: Tensor, neighbors: Tensor) -> Tensor:
        i, j = rows[keep], neighbors[keep]
        return _sparse_hsic(i, j, _kernel_values(x, i, j), _kernel_values(y, i, j), n)

    everything = torch.ones_like(in_both)
    cross = hsic(a, b, in_both, neighbors_a)
    self_a = hsic(a, a, everything, neighbors_a)
    self_b = hsic(b, b, everything, neighbors_b)
    return (cross / ((self_a * self_b).sqrt() + EPSILON)).item()


def cka(features_a: Tensor, features_b: Tensor) -> float:
    """Linear centered kernel alignment with the biased HSIC (Kornblith et al., ICML 2019).

    Args and errors as in `cknna`; in [0, 1], 1 for features equal up to rotation and scale.
    """
    a, b = _paired(features_a, features_b, 1)
    a, b = a - a.mean(0), b - b.mean(0)

    def hsic(x: Tensor, y: Tensor) -> Tensor:
        return (x.T @ y).square().sum()  # tr(K H L H)

    return (hsic(a, b) / ((hsic(a, a) * hsic(b, b)).sqrt() + EPSILON)).item()


def mutual_knn(features_a: Tensor, features_b: Tensor, k: int = 10) -> float:
    """Mean share, in [0, 1], of an image's k nearest neighbors that both representations agree on.

    Nearest by cosine similarity. Args and errors as in `cknna`.
    """
    a, b = _paired(features_a, features_b, k)
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    return _shared(_neighbors(a, k), _neighbors(b, k)).double().mean().item()


def _paired(a: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if a.dim() != 2 or b.dim() != 2 or len(a) != len(b):
        raise ValueError(f"need (N, D) twice with one N; got {tuple(a.shape)} and {tuple(b.shape)}")
    if not 1 <= k < len(a) or len(a) < 4:
        raise ValueError(f"{k} neighbors need more than {max(k, 3)} rows; got {len(a)}")
    return a.double(), b.double()


def _neighbors(x: Tensor, k: int) -> Tensor:
    """Indices (N, k) of each row's k largest inner products with other rows."""
    found = []
    for start in range(0, len(x), BLOCK):
        kernel = x[start : start + BLOCK] @ x.T  # (block, N)
        i = torch.arange(len(kernel), device=x.device)
        kernel[i, start + i] = -torch.inf
        found.append(kernel.topk(k, dim=1).indices)
    return torch.cat(found)


def _shared(neighbors_a: Tensor, neighbors_b: Tensor) -> Tensor:
    """Which of `neighbors_a` (N, k) are in the same row of `neighbors_b` (N, k): bool (N, k)."""
    return torch.cat(
        [
            (a[:, :, None] == b[:, None, :]).any(-1)
            for a, b in zip(neighbors_a.split(BLOCK), neighbors_b.split(BLOCK), strict=True)
        ]
    )


def _kernel_values(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Inner products x_i . x_j of the listed pairs, gathered in pieces."""
    size = BLOCK * 16
    pieces = zip(i.split(size), j.split(size), strict=True)
    return torch.cat([(x[a] * x[b]).sum(-1) for a, b in pieces])


def _sparse_hsic(i: Tensor, j: Tensor, k_values: Tensor, l_values: Tensor, n: int) -> Tensor:
    """Unbiased HSIC of two (n, n) matrices that are nonzero at the same pairs (i, j), i != j.

    `[tr(K L) + sum K sum L / ((n-1)(n-2)) - 2 sum(K L) / (n-2)] / (n (n-3))`
    """
    codes, order = torch.sort(i * n + j)
    mirrored = j * n + i
    at = torch.searchsorted(codes, mirrored).clamp(max=max(len(codes) - 1, 0))
    mirrored_l = (
        torch.where(codes[at] == mirrored, l_values[order[at]], 0) if len(codes) else l_values
    )
    trace = (k_values * mirrored_l).sum()
    column_sums = k_values.new_zeros(n).index_add_(0, j, k_values)
    row_sums = l_values.new_zeros(n).index_add_(0, i, l_values)
    product = column_sums @ row_sums
    total = k_values.sum() * l_values.sum() / ((n - 1) * (n - 2))
    return (trace + total - 2 * product / (n - 2)) / (n * (n - 3))
