"""How alike two representations of the same images are: CKNNA, CKA and mutual nearest neighbors.

Definitions as in the Platonic Representation Hypothesis (Huh et al., ICML 2024). Kernels are inner
products, in float64. Only each row's k largest entries are kept, so memory grows with N k and not
with N^2.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from repa.errors import RepaError

BLOCK = 1024  # rows of the kernel in memory at a time
EPSILON = 1e-6  # of the published definition of CKNNA: no division by zero
CONSTANT = 1e-12  # share of the rows' squares below which what varies is float32's rounding


class Representation:
    """Features of some images, with what comparisons need of them, computed once, when needed.

    Rows are scaled to length 1, as the published protocol (Huh et al., 2024) does before all three
    metrics. Without that, a few long rows are every image's neighbors.

    Args:
        features: (N, D), floating; kept, and computed with on its device.
        k: number of neighbors, 1 <= k < N; CKNNA needs 2.
        unit_length: False takes the rows as they are.

    Raises:
        RepaError: if they are not finite.
        ValueError: if they are not (N, D) with N > max(k, 3).
    """

    def __init__(self, features: Tensor, k: int = 10, unit_length: bool = True):
        if features.dim() != 2:
            raise ValueError(f"need features (N, D); got {tuple(features.shape)}")
        if not 1 <= k < len(features) or len(features) < 4:
            raise ValueError(f"{k} neighbors need more than {max(k, 3)} rows; got {len(features)}")
        if not features.isfinite().all():
            raise RepaError(
                "features to compare are not finite numbers: has the training of a model diverged, "
                "or are weights damaged?"
            )
        self.features = features
        self.k = k
        self.unit_length = unit_length

    def __len__(self) -> int:
        return len(self.features)

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.features.device

    def rows(self) -> Tensor:
        """The rows that are compared, (N, D), float64."""
        x = self.features.double()
        return F.normalize(x, dim=1) if self.unit_length else x

    def centered(self) -> Tensor:
        """The rows less their mean, (N, D), float64."""
        x = self.rows()
        return x - x.mean(0)

    @property
    def neighbors(self) -> Tensor:
        """Indices (N, k) of each row's k largest inner products with other rows."""
        return self._nearest[1]

    @property
    def products(self) -> Tensor:
        """Those inner products (N, k), float64."""
        return self._nearest[0]

    @cached_property
    def local_hsic(self) -> Tensor:
        """Unbiased HSIC of the kernel, masked to each row's neighbors, with itself."""
        i, j = _pairs(torch.ones_like(self.neighbors, dtype=torch.bool), self.neighbors)
        products = self.products.flatten()
        return _sparse_hsic(i, j, products, products, len(self))

    @cached_property
    def linear_hsic(self) -> Tensor:
        """Biased HSIC, tr(K H K H) without its factor, of the whole kernel with itself.

        0 if the rows are all the same.
        """
        x = self.centered()
        varies = x.square().sum() > CONSTANT * self.rows().square().sum()
        return (x.T @ x).square().sum() * varies

    @cached_property
    def _nearest(self) -> tuple[Tensor, Tensor]:
        x = self.rows()
        found = []
        for start in range(0, len(x), BLOCK):
            kernel = x[start : start + BLOCK] @ x.T  # (block, N)
            i = torch.arange(len(kernel), device=x.device)
            kernel[i, start + i] = -torch.inf
            found.append(kernel.topk(self.k, dim=1))
        products, indices = zip(*found, strict=True)
        return torch.cat(products), torch.cat(indices)


def compare(a: Representation, b: Representation) -> dict[str, float]:
    """All three metrics, `cknna`, `cka` and `mutual_knn`, of two representations.

    Neighbors and self-similarities are those that each has, so that comparing it with a second one
    costs little more than a product (D_a, N) x (N, D_b). CKNNA with a and b exchanged may differ in
    the fifth digit: being a neighbor is not mutual.

    Args:
        a, b: of the same images in the same order, with the same k, on one device.

    Raises:
        ValueError: if numbers of rows or neighbors differ.
    """
    _check_pair(a, b)
    return {"cknna": _cknna(a, b), "cka": _cka(a, b), "mutual_knn": _mutual_knn(a, b)}


def cknna(features_a: Tensor, features_b: Tensor, k: int = 10) -> float:
    """Centered kernel nearest-neighbor alignment: CKA over the pairs that are neighbors in both.

    Both kernels are masked to the pairs (i, j) where j is among the k nearest neighbors of i in a
    and in b; the result is `HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))` with the unbiased HSIC
    (Huh et al., Appendix A; Song et al., 2012).

    Rows are taken as they are; the published protocol, which `compare` follows, scales them first.

    Args:
        features_a: (N, D_a), floating; rows are the same images as in `features_b`.
        features_b: (N, D_b), floating.
        k: number of neighbors, 2 <= k < N.

    Returns:
        At most about 1, higher is more alike; around 0 for unrelated features.

    Raises:
        RepaError: if features are not finite.
        ValueError: if the numbers of rows differ, or k does not fit them.
    """
    return _cknna(*_paired(features_a, features_b, k))


def cka(features_a: Tensor, features_b: Tensor) -> float:
    """Linear centered kernel alignment with the biased HSIC (Kornblith et al., ICML 2019).

    Args and errors as in `cknna`; in [0, 1], 1 for features equal up to rotation and scale, 0 if
    the rows of one are all the same.
    """
    return _cka(*_paired(features_a, features_b, 1))


def mutual_knn(features_a: Tensor, features_b: Tensor, k: int = 10) -> float:
    """Mean share, in [0, 1], of an image's k nearest neighbors that both representations agree on.

    Nearest by cosine similarity. Args and errors as in `cknna`.
    """
    return _mutual_knn(*_paired(features_a, features_b, k, unit_length=True))


def _paired(
    features_a: Tensor, features_b: Tensor, k: int, unit_length: bool = False
) -> tuple[Representation, Representation]:
    a, b = (Representation(x, k, unit_length) for x in (features_a, features_b))
    _check_pair(a, b)
    return a, b


def _check_pair(a: Representation, b: Representation) -> None:
    if len(a) != len(b) or a.k != b.k:
        raise ValueError(
            f"need one number of rows and of neighbors; got {len(a)} and {len(b)} rows, "
            f"{a.k} and {b.k} neighbors"
        )


def _cknna(a: Representation, b: Representation) -> float:
    same = _matches(a, b)  # (N, k, k)
    in_both = same.any(2)
    i, j = _pairs(in_both, a.neighbors)
    # Whatever is a neighbor in both has its inner product in both.
    products_b = b.products.gather(1, same.byte().argmax(2))
    cross = _sparse_hsic(i, j, a.products[in_both], products_b[in_both], len(a))
    return (cross / ((a.local_hsic * b.local_hsic).sqrt() + EPSILON)).item()


def _cka(a: Representation, b: Representation) -> float:
    cross = (a.centered().T @ b.centered()).square().sum()
    scale = (a.linear_hsic * b.linear_hsic).sqrt()
    return (cross / scale).item() if scale > 0 else 0.0


def _mutual_knn(a: Representation, b: Representation) -> float:
    return _matches(a, b).any(2).double().mean().item()


def _matches(a: Representation, b: Representation) -> Tensor:
    """Which neighbor in a is which in b: bool (N, k, k)."""
    return a.neighbors[:, :, None] == b.neighbors[:, None, :]


def _pairs(keep: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor]:
    """Row i and neighbor j, (P,) each, of the P places that a mask (N, k) keeps."""
    i = torch.arange(len(neighbors), device=neighbors.device)[:, None].expand_as(neighbors)
    return i[keep], neighbors[keep]


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
