"""Networks small enough to run everywhere, one that has all that Inception has; and options."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repa.config import EvaluateOptions
from repa.evaluation.networks import NETWORKS, Features, Network
from repa.evaluation.networks.classifier import save_classifier
from repa.evaluation.networks.resnet import SmallResNet


class Tiny(Network):
    """Projections of an image's average colors in its quarters."""

    spatial_dim = 5

    def __init__(self, name: str = "inception", seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        linear = nn.Linear(12, 6, bias=False)
        linear.weight.data = torch.randn(6, 12, generator=generator)
        super().__init__(name, linear, dim=6)
        self.metrics = NETWORKS[name].metrics
        self.images_seen = 0

    def forward(self, images: Tensor) -> Features:
        self.images_seen += len(images)
        colors = F.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)
        features = self.network(colors)
        return Features(features, features[:, :5].cos(), features[:, :4].softmax(1))


def save_tiny_classifier(path: Path, classes: tuple[str, ...]) -> Path:
    """The file of a classifier of random weights for images of 32 px, said to be 75 % accurate."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallResNet(len(classes), 8)
    # Random weights give all images one class; a large weight of their differences does not.
    network.classifier.weight.data *= 100
    save_classifier(path, network, classes, 32, 0.75, 20)
    return path


def options(reference: Path, samples: Path, **others: Any) -> EvaluateOptions:
    values = {"batch_size": 16, "device": "cpu"}
    return EvaluateOptions.model_validate(
        {"reference": reference, "samples": samples} | values | others
    )
