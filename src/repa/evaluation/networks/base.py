"""What a network gives for images, and what all networks share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from repa.weights import network_fingerprint


@dataclass(frozen=True)
class Features:
    """What metrics are computed from, one row an image.

    Attributes:
        features: (N, D).
        spatial: (N, S), of a map of features; None where a network has none to compare.
        probabilities: (N, K), of the classes, rows sum to 1; None without a classifier.
    """

    features: Tensor
    spatial: Tensor | None = None
    probabilities: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def parts(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


class Network(nn.Module):
    """Frozen network from images to what is compared. Subclasses say how (`forward`).

    Attributes:
        name: as `create_network` takes it.
        metrics: those that are computed from its features.
        dim: width D of the features.
        spatial_dim: width S of the spatial features, 0 if there are none.
        library: package the network comes from.
        classes: names of the classes that samples are drawn for, in the order of their labels;
            empty where its classes are others.
        accuracy: share of real images of these classes that it recognizes, where known.
    """

    metrics: tuple[str, ...] = ()
    spatial_dim = 0
    library = "timm"
    classes: tuple[str, ...] = ()
    accuracy: float | None = None

    def __init__(self, name: str, network: Any, dim: int):
        super().__init__()
        self.name = name
        self.network = network
        self.dim = dim
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Network:
        """Stays in evaluation mode, whatever the module around it does."""
        return super().train(False)

    def forward(self, images: Tensor) -> Features:
        """Images (N, 3, H, W) uint8 to features, floating, on their device."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell these weights from others, whatever file they came in."""
        return network_fingerprint(self.network)


def normalize(
    pixels: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """Pixels (N, 3, H, W) in [0, 255] less the mean, over the deviation, both of [0, 1]."""
    shift, scale = (torch.tensor(c, device=pixels.device).view(1, 3, 1, 1) for c in (mean, std))
    return (pixels.float() / 255 - shift) / scale
