"""Vision transformers of timm with the weights of a published file, or downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from repa.encoders import vit


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
    options |= row.arguments
    file = weights or vit.find_weights(row, None)
    if file is not None:
        return vit.read_vit(file, row, options)
    advice = (
        f"put {row.files[0]} into {Path(torch.hub.get_dir(), 'checkpoints')}, or name the file "
        "with --network-weights (--eval-network-weights in training)"
    )
    return vit.download_vit(name, row, options, advice)
