"""A residual network for small images, that a CPU trains in minutes."""

from __future__ import annotations

from torch import Tensor, nn


class SmallResNet(nn.Module):
    """Convolutions with two residual blocks, in the manner of ResNet-9 (Page, 2018).

    The stage at full resolution is one narrow convolution: on a CPU it costs most and gains little.

    Attributes:
        width: as given.
        dim: of the pooled features, 6 `width`.

    Args:
        classes: how many.
        width: channels at half the resolution, even.
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.width, self.dim = width, 6 * width
        self.stages = nn.Sequential(
            _convolution(3, width // 2),  # (N, W / 2, H, H)
            _convolution(width // 2, width, stride=2),  # (N, W, H / 2, H / 2)
            _Residual(width),
            nn.MaxPool2d(2),
            _convolution(width, 2 * width),  # (N, 2 W, H / 4, H / 4)
            _Residual(2 * width),
            nn.MaxPool2d(2),
            _convolution(2 * width, 6 * width),  # (N, 6 W, H / 8, H / 8)
        )
        self.classifier = nn.Linear(self.dim, classes)

    def features(self, x: Tensor) -> Tensor:
        """Normalized images (N, 3, H, W), sides of at least 8, to pooled features (N, dim)."""
        return self.stages(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images (N, 3, H, W) to logits (N, classes)."""
        return self.classifier(self.features(x))


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (_convolution(channels, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def _convolution(channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
