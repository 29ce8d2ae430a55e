"""Networks whose features are compared: `create_network("inception")`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from repa.errors import RepaError
from repa.evaluation.networks.base import Features, Network


@dataclass(frozen=True)
class Row:
    """A network: the module with its `load(name, weights)`, and the metrics it serves."""

    module: str
    metrics: tuple[str, ...]


GENERAL = ("frechet_distance", "precision", "recall", "inception_score", "kernel_distance")

# A new network is one file and one line here.
NETWORKS = {
    "inception": Row("inception", ("fid", "sfid", "inception_score", "precision", "recall", "kid")),
    "dinov2": Row("dinov2", ("fd_dinov2", "precision", "recall")),
    "clip": Row("clip", ("cmmd",)),
    "classifier": Row("classifier", (*GENERAL, "class_accuracy")),
    **{f"efficientnet-lite{i}": Row("efficientnet", GENERAL) for i in range(3)},
}


def create_network(name: str, weights: Path | None = None) -> Network:
    """The frozen network called `name`, on the CPU.

    Args:
        name: a key of `NETWORKS`.
        weights: file with its weights; by default from the cache or downloaded.

    Raises:
        RepaError: if there is no such network or its weights cannot be had.
    """
    if name not in NETWORKS:
        raise RepaError(
            f"unknown network {name!r} (--network, --eval-network); choose from "
            f"{', '.join(NETWORKS)}"
        )
    row = NETWORKS[name]
    # Each file imports a library that takes seconds: only for who needs it.
    module = import_module(f"{__name__}.{row.module}")
    # Networks draw random weights before the real ones replace them.
    with torch.random.fork_rng(devices=[]):
        network: Network = module.load(name, weights)
    network.metrics = row.metrics
    return network


__all__ = ["NETWORKS", "Features", "Network", "create_network"]
