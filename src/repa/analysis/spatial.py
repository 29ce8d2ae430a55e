"""How an encoder's tokens are arranged in space, which tells how good a target they make.

The metrics of iREPA (Singh et al., "What matters for representation alignment: global information
or spatial structure?", 2025, arXiv 2512.10794). Their fourth, SRSS, compares tokens inside and
outside of objects; it needs segmentation masks, which no dataset here has.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from repa.errors import RepaError

FAR = 6  # Manhattan distance from which tokens are distant
LONGEST = 8  # distance up to which the decay is measured
SLICE_BYTES = 1 << 26  # of the cosines between all tokens of some images


@torch.no_grad()
def spatial_structure(tokens: Tensor) -> dict[str, Tensor]:
    """Spatial metrics of each image's tokens; the higher, the more structure.

    With tokens u scaled to length 1, and distances those of Manhattan on the grid:

    - `lds`, local versus distant similarity: mean cosine of the pairs at distance 1 less that of
      the pairs at distance 6 or more.
    - `cds`, correlation-decay slope: less the slope of the least-squares line through the points
      (d, mean cosine of the pairs at distance d), d from 1 to 8 or the grid's largest.
    - `rmsc`, RMS spatial contrast: `sqrt(mean |u - mean u|^2)` over the tokens.

    Args:
        tokens: (N, T, D), floating, row by row of a square grid.

    Returns:
        {"lds", "cds", "rmsc"}: (N,) each, float32, on the tokens' device.

    Raises:
        RepaError: if the grid is smaller than 4 x 4, where nothing is at distance 6.
        ValueError: if T is not a square.
    """
    n, count, _ = tokens.shape
    side = math.isqrt(count)
    if side**2 != count:
        raise ValueError(f"need the tokens of a square grid; got {count}")
    if 2 * (side - 1) < FAR:
        raise RepaError(
            f"spatial structure needs tokens on a grid of 4 x 4 or more; these are {side} x {side}"
        )
    averages = _averages(side, tokens.device)
    parts = []
    for some in tokens.split(max(1, SLICE_BYTES // (4 * count**2))):
        u = F.normalize(some.float(), dim=2)
        cosines = (u @ u.mT).flatten(1) @ averages  # (n, 1 + distances)
        contrast = (u - u.mean(1, keepdim=True)).square().sum(2).mean(1).sqrt()
        parts.append(torch.cat([cosines, contrast[:, None]], dim=1))
    far, *near, rmsc = torch.cat(parts).unbind(1) if n else tokens.new_zeros(10, 0).float()
    decay = torch.stack(near)  # (distances, N)
    distances = torch.arange(1.0, len(near) + 1, device=tokens.device)
    centered = distances - distances.mean()
    slope = centered @ decay / centered.square().sum()
    return {"lds": near[0] - far, "cds": -slope, "rmsc": rmsc}


def _averages(side: int, device: torch.device) -> Tensor:
    """What a matrix (T^2,) of cosines is multiplied with to get means over pairs of tokens.

    Columns: the pairs at distance `FAR` or more; then those at distance 1, 2, ...
    """
    place = torch.arange(side, device=device)
    rows, columns = place.repeat_interleave(side), place.repeat(side)  # (T,)
    distance = (rows[:, None] - rows).abs() + (columns[:, None] - columns).abs()  # (T, T)
    longest = min(LONGEST, 2 * (side - 1))
    masks = [distance >= FAR, *(distance == d for d in range(1, longest + 1))]
    return torch.stack([mask.flatten() / mask.sum() for mask in masks], dim=1)
