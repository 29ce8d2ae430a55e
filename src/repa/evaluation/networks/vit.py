"""Vision transformers of timm with the weights of a published file, or downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from repa.encoders import vit
from repa.errors import RepaError, first_line


def load_vit(name: str, row: vit.ViT, weights: Path | None, **options: Any) -> Any:
    """timm's network.

    Args:
        name: of the network, for messages.
        row: which network and which files.
        weights: file with the weights; by default the published one among the downloads of
            `torch.hub`, else timm's, from its cache or downloaded.
        options: further arguments of timm's.

    Raises:
        RepaError: if the weights cannot be had or do not fit.
    """
    import timm

    options |= row.arguments
    file = weights or vit.find_weights(row, None)
    if file is not None:
        return vit.read_vit(file, row, options)
    try:
        return timm.create_model(row.network, pretrained=True, **options)
    except Exception as error:  # the hub's client has its own and requests' errors
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise RepaError(
            f"no weights for {name}: download failed ({first_line(error)}); put {row.files[0]} "
            f"into {folder}, or name the file with --network-weights "
            "(--eval-network-weights in training)"
        ) from None
