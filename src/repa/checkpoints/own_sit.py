"""SiT's own published weights, translated to the convention of REPA's release and ours.

SiT counts time from noise (0) to data (1), and predicts the velocity in that direction; REPA counts
from data to noise. So `v(x, t) = -v_own(x, 1 - t)`. Both signs can be moved into the weights: the
model then is an ordinary `repa.models.SiT`, for every sampler and analysis.

- The last layer is negated. It also predicts a variance that SiT never uses: those rows go.
- The time's features are cos(w t) and sin(w t). Those of 1 - t are
  `cos w cos(w t) + sin w sin(w t)` and `sin w cos(w t) - cos w sin(w t)`: a rotation, merged with
  the layer after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repa.errors import RepaError
from repa.models.layers import time_frequencies

# SiT's names of its paths: ours. Its third one, VP, is not among them.
PATHS = {"Linear": "linear", "GVP": "cosine"}
PATH_NAMES = (*PATHS, "VP")


def translate_own_sit(
    state: Mapping[str, Tensor], in_channels: int, patch_size: int
) -> dict[str, Tensor]:
    """SiT's own state dict to one for `repa.models.SiT`, as exact as float32 is.

    Args:
        state: SiT's names and tensors, with C or 2 C output channels.
        in_channels: C.
        patch_size: side p of a patch; the last layer's rows count (p, p, channels).
    """
    out: dict[str, Tensor] = dict(state)
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        rows = state[name].unflatten(0, (patch_size**2, -1))  # (p * p, C or 2 C, ...)
        out[name] = -rows[:, :in_channels].flatten(0, 1)
    name = "t_embedder.mlp.0.weight"
    out[name] = _reverse_time(state[name])
    return out


def own_sit_path(args: Mapping[str, Any], path: Path) -> str:
    """Our name of the path that SiT's training options say, "linear" where there are none.

    Raises:
        RepaError: if it is none of ours, or the model does not predict velocities.
    """
    named, prediction = args.get("path_type"), args.get("prediction", "velocity")
    if named is None:
        named = "Linear"
    if named not in tuple(PATHS) or prediction != "velocity":  # a tuple: it may be a list
        raise RepaError(
            f"{path} is a SiT of path {named} that predicts {prediction}: only velocities on "
            f"the paths {', '.join(PATHS)} are supported"
        )
    return PATHS[named]


def _reverse_time(weight: Tensor) -> Tensor:
    """The first layer (D, 2 F) of the time embedding, for features of `1 - t` instead of `t`."""
    half = weight.shape[1] // 2
    # The frequencies as the embedding has them; the sums in float64, rounded once.
    w = time_frequencies(half).double()  # (F,)
    cosine, sine = weight.double().split(half, dim=1)
    to_cosine = cosine * w.cos() + sine * w.sin()
    to_sine = cosine * w.sin() - sine * w.cos()
    return torch.cat([to_cosine, to_sine], dim=1).to(weight.dtype)
