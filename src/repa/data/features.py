"""Cached tokens of the target encoders: as float16, or as int8 with a scale for each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

FEATURES = "features."
SCALE = ".scale"
FeatureDtype = Literal["float16", "int8"]


def feature_arrays(name: str, dtype: FeatureDtype) -> list[str]:
    """Names of the arrays that hold the tokens of the encoder `name`."""
    return [FEATURES + name, FEATURES + name + SCALE] if dtype == "int8" else [FEATURES + name]


def pack_features(name: str, tokens: Tensor, dtype: FeatureDtype) -> dict[str, Tensor]:
    """Tokens (N, T, D), floating, as the arrays that a shard stores for the encoder `name`.

    float16: `features.NAME` (N, T, D), clamped to its range. int8: `features.NAME` (N, T, D), each
    token divided by its scale and rounded, and `features.NAME.scale` (N, T) float32, the token's
    largest magnitude over 127.
    """
    if dtype == "float16":
        limit = torch.finfo(torch.float16).max
        return {FEATURES + name: tokens.clamp(-limit, limit).to(torch.float16)}
    tokens = tokens.float()
    scale = tokens.abs().amax(dim=-1) / 127
    divisor = torch.where(scale > 0, scale, 1).unsqueeze(-1)  # a token of zeros stays one
    return {
        FEATURES + name: (tokens / divisor).round().to(torch.int8),
        FEATURES + name + SCALE: scale,
    }


def unpack_features(name: str, arrays: Mapping[str, Tensor]) -> Tensor:
    """The tokens (N, T, D), float32, that `pack_features` made these arrays of."""
    tokens = arrays[FEATURES + name].float()
    scale = arrays.get(FEATURES + name + SCALE)
    return tokens if scale is None else tokens * scale.unsqueeze(-1)
