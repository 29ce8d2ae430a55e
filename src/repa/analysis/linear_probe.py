"""Linear probing: what a linear classifier reads off frozen features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
HELD_OUT = 5  # every fifth training row chooses the weight decay


def linear_probe(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> float:
    """Test accuracy of multinomial logistic regression on frozen features.

    Features are standardized with the training rows' mean and deviation; L-BFGS minimizes
    cross-entropy plus weight decay, which is chosen among `WEIGHT_DECAYS` by accuracy on every
    fifth training row; the classifier is then fitted again on all of them. Nothing is random.

    Args:
        train_features: (N, D), floating.
        train_labels: (N,), int64, from 0.
        test_features: (M, D), floating.
        test_labels: (M,), int64.

    Returns:
        Top-1 accuracy in [0, 1].
    """
    mean, std = train_features.float().mean(0), train_features.float().std(0) + 1e-6
    train = (train_features.float() - mean) / std
    test = (test_features.float() - mean) / std
    num_classes = int(torch.cat([train_labels, test_labels]).max()) + 1

    held_out = torch.arange(len(train), device=train.device) % HELD_OUT == HELD_OUT - 1

    def held_out_accuracy(weight_decay: float) -> float:
        fit = _fit(train[~held_out], train_labels[~held_out], num_classes, weight_decay)
        return _accuracy(fit, train[held_out], train_labels[held_out])

    best = max(WEIGHT_DECAYS, key=held_out_accuracy)
    return _accuracy(_fit(train, train_labels, num_classes, best), test, test_labels)


def _fit(x: Tensor, y: Tensor, num_classes: int, weight_decay: float) -> tuple[Tensor, Tensor]:
    weight = x.new_zeros(num_classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), y)
        loss = loss + weight_decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


def _accuracy(classifier: tuple[Tensor, Tensor], x: Tensor, y: Tensor) -> float:
    return (F.linear(x, *classifier).argmax(1) == y).double().mean().item()
