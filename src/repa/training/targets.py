"""How a run normalizes the tokens of its target encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from repa.alignment import ChannelNormalization, spatial_normalization
from repa.alignment.normalization import TargetNorm
from repa.analysis.targets import encoder_tokens
from repa.data import ImageDataset
from repa.data.share import spread
from repa.encoders import Encoder, resample_tokens

IMAGES = 2048  # that tell the channels' means and deviations


def target_normalizations(
    norm: TargetNorm,
    dataset: ImageDataset,
    names: Sequence[str],
    encoders: Mapping[str, Encoder],
    grid_size: int,
    device: torch.device,
) -> dict[str, Callable[[Tensor], Tensor]]:
    """For each encoder what is done to its tokens; nothing with "none".

    With "channel" means and deviations are taken from images spread over the dataset, the same at
    every start and on every process.

    Args:
        norm: which normalization.
        dataset: whose images are trained on.
        names: the encoders.
        encoders: those that are computed, on `device`; the dataset has cached the others.
        grid_size: tokens a side of the backbone.
        device: of the tokens to normalize.

    Raises:
        RepaError: if tokens are not finite.
    """
    if norm == "none":
        return {}
    if norm == "spatial":
        return dict.fromkeys(names, spatial_normalization)
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for name in names:
        batches = encoder_tokens(dataset, spread(len(dataset), IMAGES), encoders.get(name, name))
        found[name] = ChannelNormalization.fit(
            resample_tokens(tokens.to(device), grid_size) for _, tokens in batches
        )
    return found
