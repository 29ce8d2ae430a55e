"""Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from repa.evaluation.blocks import Rows, squared_distances

# Rounding of a squared distance is below 1e-13 of the norms; images nearer than 1e-6 of them are
# the same but for the rounding of float32.
SLACK = 1e-12


def precision_recall(
    real: Tensor, fake: Tensor, k: int = 3, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Precision and recall of k-nearest-neighbor manifolds.

    A set's manifold is the union of the balls around its points that reach to their k-th nearest
    neighbor. Precision is the share of fake points in the real manifold, recall the share of real
    points in the fake one. A point on the surface of a ball is in it, as in ADM's suite, and so is
    one that only rounding keeps out.

    Distances are computed in float64 and in blocks: neither all of them nor a float64 copy of the
    features is ever in memory (`repa.evaluation.blocks`).

    Args:
        real: features (N, D), floating; N > k.
        fake: features (M, D), floating; M > k.
        k: neighbor that sets the radius; ADM's suite uses 3.
        device: where to compute.

    Returns:
        (precision, recall), both in [0, 1].

    Raises:
        ValueError: if a set is too small or the dimensions differ.
    """
    if real.shape[1] != fake.shape[1] or min(len(real), len(fake)) <= k:
        raise ValueError(f"k = {k} with sets of {tuple(real.shape)} and {tuple(fake.shape)}")
    center = real.mean(0, dtype=torch.float64)
    reals, fakes = Rows(real, center, device), Rows(fake, center, device)
    real_radii, fake_radii = _squared_radii(reals, k), _squared_radii(fakes, k)
    real_covered = torch.zeros(len(reals), dtype=torch.bool, device=device)
    fake_covered = torch.zeros(len(fakes), dtype=torch.bool, device=device)
    for at_real, x in reals.blocks():
        for at_fake, y in fakes.blocks():
            distances = squared_distances(x, y, SLACK)  # (n, m)
            fake_covered[at_fake] |= (distances <= real_radii[at_real, None]).any(0)
            real_covered[at_real] |= (distances <= fake_radii[at_fake]).any(1)
    return fake_covered.double().mean().item(), real_covered.double().mean().item()


def _squared_radii(x: Rows, k: int) -> Tensor:
    """Squared distance (N,) of each point to its k-th nearest neighbor.

    Distances are symmetric: each block off the diagonal serves its rows and its columns.
    """
    # The nearest of x to itself is itself: the k-th neighbor comes at place k + 1.
    nearest = torch.full((len(x), k + 1), torch.inf, dtype=torch.float64, device=x.device)
    for at_rows, rows in x.blocks():
        for at_columns, columns in x.blocks(at_rows.start):
            distances = squared_distances(rows, columns)
            _keep_nearest(nearest[at_rows], distances, dim=1)
            if at_columns != at_rows:
                _keep_nearest(nearest[at_columns], distances, dim=0)
    return nearest.amax(1)


def _keep_nearest(nearest: Tensor, distances: Tensor, dim: int) -> None:
    """Replaces the smallest so far (n, k + 1) by those of them and of new distances.

    Args:
        nearest: of n points, overwritten.
        distances: (n, m), or (m, n) where `dim` is 0.
        dim: along which the new ones of a point lie.
    """
    count = min(nearest.shape[1], distances.shape[dim])
    new = distances.topk(count, dim, largest=False, sorted=False).values
    both = torch.cat([nearest, new if dim == 1 else new.T], dim=1)
    nearest.copy_(both.topk(nearest.shape[1], dim=1, largest=False, sorted=False).values)
