"""Representations that need no backbone: an encoder's tokens, and pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from repa.analysis.hidden_states import Pooling, pool_tokens
from repa.autoencoders import from_uint8
from repa.data import ImageDataset, PreparedDataset
from repa.encoders import Encoder, resample_tokens
from repa.errors import RepaError

PIXEL_GRID = 16  # side of the images that `pixel_features` makes
READ_AT_ONCE = 256  # images


def encoder_tokens(
    dataset: ImageDataset, indices: Sequence[int], encoder: str | Encoder, batch_size: int = 64
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """An encoder's tokens, batch by batch, for all that wants them in one pass.

    Args:
        dataset: clean images.
        indices: which of them.
        encoder: the name of tokens that the dataset has cached, or an encoder on its device.
        batch_size: images at a time.

    Yields:
        Indices of n images and their tokens (n, T, D), floating, on the encoder's device; cached
        ones in float32 on the CPU.

    Raises:
        RepaError: if no tokens of that name are cached, or tokens are not finite.
    """
    name = encoder if isinstance(encoder, str) else encoder.name
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        if isinstance(encoder, str):
            tokens = _cached_tokens(dataset, chosen, encoder)
        else:
            device = next(encoder.parameters(), torch.empty(0)).device
            tokens = encoder(torch.from_numpy(dataset.images(chosen)).to(device))
        if not tokens.isfinite().all():
            raise RepaError(f"tokens of {name} are not finite numbers: are its weights damaged?")
        yield chosen, tokens


def target_states(
    dataset: ImageDataset,
    indices: Sequence[int],
    encoder: str | Encoder,
    grid_size: int | None = None,
    batch_size: int = 64,
    pooling: Pooling = "mean",
) -> Tensor:
    """An encoder's tokens, pooled as `hidden_states` pools those of a backbone.

    Args:
        dataset, indices, encoder, batch_size: as for `encoder_tokens`; at least one image.
        grid_size: tokens a side of the backbone, to which tokens are brought first, as training
            does; the encoder's own by default. With pooling "patch" it makes patches correspond.
        pooling: see `pool_tokens`.

    Returns:
        (n, D), float32 on the CPU.

    Raises:
        RepaError: as `encoder_tokens`.
    """
    states = []
    for chosen, tokens in encoder_tokens(dataset, indices, encoder, batch_size):
        if grid_size is not None:
            tokens = resample_tokens(tokens, grid_size)
        states.append(pool_tokens(tokens, chosen, pooling).cpu())
    return torch.cat(states)


def pixel_features(dataset: ImageDataset, indices: Sequence[int]) -> Tensor:
    """Images averaged to 16x16 pixels: what any representation should beat.

    Each pixel is the mean of those that it covers, wholly or in part; smaller images are enlarged.

    Args:
        dataset: clean images.
        indices: which of them, n; at least one.

    Returns:
        (n, 768), float32 in [-1, 1], on the CPU.
    """
    size = (PIXEL_GRID, PIXEL_GRID)
    parts = []
    for start in range(0, len(indices), READ_AT_ONCE):
        images = torch.from_numpy(dataset.images(indices[start : start + READ_AT_ONCE]))
        parts.append(F.adaptive_avg_pool2d(from_uint8(images), size).flatten(1))
    return torch.cat(parts)


def _cached_tokens(dataset: ImageDataset, indices: Sequence[int], name: str) -> Tensor:
    if not isinstance(dataset, PreparedDataset) or name not in dataset.manifest.features:
        known = ", ".join(dataset.manifest.features) or "none"
        raise RepaError(
            f"the dataset of {dataset.manifest.source.name} has no cached tokens of {name} "
            f"(cached: {known}): add them with `repa prepare --dest DATASET --enc-type {name}`"
        )
    return dataset.features(name, indices)
