"""Networks whose features are compared: images to features and class probabilities."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repa.devices import in_slices
from repa.encoders.base import HALF
from repa.encoders.efficientnet import CPU_SLICE, load_efficientnet
from repa.errors import RepaError


class EfficientNetJudge(nn.Module):
    """EfficientNet-Lite's pooled features (1280) and ImageNet probabilities (1000).

    Images are resized to 160 px, for small pictures as good as the training resolution and several
    times cheaper. Compare only numbers from the same network.
    """

    input_size = 160
    mean: Tensor

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.network = load_efficientnet(name)
        self.register_buffer("mean", torch.tensor(HALF).view(1, 3, 1, 1))

    @torch.inference_mode()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) uint8 to features (N, 1280) and probabilities (N, 1000)."""
        x = (images.float() / 255 - self.mean) / self.mean
        size = (self.input_size, self.input_size)
        x = F.interpolate(x, size, mode="bicubic", antialias=True)
        features = in_slices(self._pooled, x, CPU_SLICE)
        return features, self.network.get_classifier()(features).softmax(-1)

    def _pooled(self, x: Tensor) -> Tensor:
        return self.network.forward_head(self.network.forward_features(x), pre_logits=True)


NETWORKS = {f"efficientnet-lite{i}": EfficientNetJudge for i in range(3)}


def create_network(name: str) -> nn.Module:
    """The judge called `name`, in evaluation mode.

    Raises:
        RepaError: if there is no such network or its weights are missing.
    """
    if name not in NETWORKS:
        raise RepaError(f"unknown network {name!r} (--network); choose from {', '.join(NETWORKS)}")
    return NETWORKS[name](name).eval()


def extract(
    network: nn.Module, batches: Iterable[Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features (N, D) and probabilities (N, K) of all batches of images, float32 on the CPU."""
    results = [tuple(part.float().cpu() for part in network(batch.to(device))) for batch in batches]
    features, probabilities = zip(*results, strict=True)
    return torch.cat(features), torch.cat(probabilities)
