"""The Inception of FID: the TensorFlow network of 2015-12-05, ported exactly by torch-fidelity."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from repa.errors import RepaError, first_line
from repa.evaluation.networks.base import Features, Network
from repa.weights import read_weights

FILE = URL_INCEPTION_V3.rpartition("/")[2]  # weights-inception-2015-12-05-6726825d.pth
HASH = FILE.removesuffix(".pth").rpartition("-")[2]  # the beginning of its SHA-256
SPATIAL_CHANNELS = 7
CPU_SLICE = 8  # images


class Inception(Network):
    """What ADM's suite takes of the network, in one pass.

    - features: `pool_3`, (N, 2048);
    - spatial: the first 7 channels of `mixed_6/conv`, flattened row by row with the channels last,
      as TensorFlow has them, (N, 17 * 17 * 7 = 2023). Blocks `mixed` to `mixed_2` are 35x35,
      `mixed_3` reduces, `mixed_4` to `mixed_7` are 17x17: `mixed_6` is torch-fidelity's Mixed_6d,
      and `conv` its branch of one 1x1 convolution, after norm and ReLU;
    - probabilities: softmax of the logits without their bias, (N, 1008).
    """

    spatial_dim = 17 * 17 * SPATIAL_CHANNELS
    library = "torch-fidelity"

    def __init__(self, name: str, network: FeatureExtractorInceptionV3):
        super().__init__(name, network, dim=2048)
        self._maps: list[Tensor] = []
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep_map)

    def forward(self, images: Tensor) -> Features:
        """Images (N, 3, H, W) uint8, resized to 299 px as TensorFlow did."""
        on_cpu = images.device.type == "cpu"
        slices = images.split(CPU_SLICE if on_cpu else len(images))
        # On a CPU twice as fast (benchmarks/evaluating.py).
        self.network.to(memory_format=torch.channels_last if on_cpu else torch.contiguous_format)
        try:
            outputs = [self.network(part) for part in slices]
            spatial = torch.cat(self._maps)
        finally:
            self._maps.clear()
        features, logits = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        return Features(features, spatial, logits.softmax(-1))

    def _keep_map(self, module: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        self._maps.append(maps[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1))


def load(name: str, weights: Path | None) -> Inception:
    """Inception with the weights of a file, of torch-fidelity's cache, or downloaded into that.

    Raises:
        RepaError: if the weights cannot be had or do not fit.
    """
    cached = Path(torch.hub.get_dir(), "checkpoints", FILE)
    if weights is None and not cached.is_file():
        _download(cached)
    try:
        state = read_weights(weights or cached)
    except RepaError as error:
        advice = "" if weights else ": delete the file, and it is downloaded again"
        raise RepaError(f"{error}{advice}") from None
    # torch-fidelity unpickles what it is given: here, tensors that were read as data.
    buffer = io.BytesIO()
    torch.save({k: v.clone() for k, v in state.items() if isinstance(v, Tensor)}, buffer)
    buffer.seek(0)
    try:
        network = FeatureExtractorInceptionV3(
            name, ["2048", "logits_unbiased"], feature_extractor_weights_path=buffer
        )
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:])[:300]
        raise RepaError(f"{weights or cached} does not fit the network: {reason}") from None
    return Inception(name, network)


def _download(destination: Path) -> None:
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(destination), HASH)
    except (URLError, OSError, RuntimeError) as error:
        raise RepaError(
            f"no weights for inception: download failed ({first_line(error)}); put {FILE} into "
            f"{destination.parent}, or name the file with --network-weights "
            "(--eval-network-weights in training)"
        ) from None
