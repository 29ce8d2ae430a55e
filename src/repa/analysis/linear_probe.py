"""Linear probing: what a linear classifier reads off frozen features, for many layers at once.

A hidden state varies a million times more along some directions than along others, and what tells
the classes apart may lie in the small ones. Where SGD and AdamW on standardized features then stop,
accuracy is far below the optimum's: by 6 to 9 points for the states of a SiT with random weights
(2,000 images of CIFAR-10, 1,000 steps). So features are rotated to their principal axes, and each
axis gets a step by the curvature of the loss along it. Mini-batches with momentum are then at the
optimum within a few hundred steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repa.errors import RepaError
from repa.evaluation.extract import full_precision
from repa.randomness import Purpose, stream

LEARNING_RATES = (0.03, 0.3)  # in units of 1 / curvature
WEIGHT_DECAYS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
GRID = tuple(itertools.product(LEARNING_RATES, WEIGHT_DECAYS))
HELD_OUT = 5  # every fifth training row chooses from the grid
MIN_ROWS = 10
MOMENTUM = 0.9
# More steps change accuracies by their noise only. 50,000 rows: 960 steps of 1,024.
EPOCHS, MIN_STEPS, MAX_STEPS = 20, 300, 3000
MIN_BATCH, MAX_BATCH = 256, 1024
GROUP_BYTES = 1 << 31  # of the layers trained together: features, classifiers, logits
CHUNK = 1024  # rows rotated or judged at a time


@dataclass(frozen=True)
class ProbeResult:
    """How well a linear classifier does on one layer.

    Attributes:
        top1, top5: test accuracies in [0, 1]; of C < 5 classes, the second is top-C.
        learning_rate, weight_decay: the pair that was chosen.
    """

    top1: float
    top5: float
    learning_rate: float
    weight_decay: float


def linear_probe(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> float:
    """Top-1 test accuracy for one layer, features (N, D) and (M, D); see `linear_probes`."""
    [result] = linear_probes(train_features[None], train_labels, test_features[None], test_labels)
    return result.top1


@torch.no_grad()
def linear_probes(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[ProbeResult]:
    """Test accuracies of multinomial logistic regression on frozen features, layer by layer.

    Features are standardized with the training rows' mean and deviation. Minimized is the mean
    cross-entropy plus `weight_decay / 2 |W|^2`. All pairs of `GRID` train together on four fifths
    of the rows; a layer's pair is the one with the best top-1 on every fifth row, and of equals the
    one with the lowest loss there. Then each layer trains with its pair on all rows.

    Layers do not influence each other. As many train together as fit into `GROUP_BYTES`; the
    features stay where they are, but for those.

    Args:
        train_features: L layers, (L, N, D), floating.
        train_labels: (N,), int64, from 0.
        test_features: (L, M, D), floating.
        test_labels: (M,), int64.
        seed: of the order of the rows; one seed on one device gives one result.
        device: where to train; the features' by default.

    Returns:
        One result a layer.

    Raises:
        RepaError: if features are not finite, there are fewer than `MIN_ROWS` training rows or no
            test rows, or all training rows have one label.
        ValueError: if the shapes do not fit, or a label is negative.
    """
    _check(train_features, train_labels, test_features, test_labels)
    device = torch.device(device) if device is not None else train_features.device
    classes = int(torch.cat([train_labels.cpu(), test_labels.cpu()]).max()) + 1
    y, test_y = train_labels.to(device), test_labels.to(device)
    results = []
    with full_precision(device):
        for group in _groups(train_features, test_features, classes):
            features, test = train_features[group], test_features[group]
            mean, rotation, variances = _principal_axes(features, device)
            x, test_x = (_rotated(part, mean, rotation) for part in (features, test))
            pairs = _choose(x, y, classes, variances, seed)
            grid = torch.tensor(pairs)[:, None]  # (L, 1, 2)
            weights = _train(x, y, torch.arange(len(y)), classes, variances, grid, seed)
            judged = _judge(test_x, test_y, torch.arange(len(test_y)), weights)
            top1, top5, _ = (values[:, 0].tolist() for values in judged)
            results += [
                ProbeResult(first, fifth, *pair)
                for first, fifth, pair in zip(top1, top5, pairs, strict=True)
            ]
    return results


def _check(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor) -> None:
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (x, y, test_x, test_y))
    fit = x.dim() == test_x.dim() == 3 and x.shape[::2] == test_x.shape[::2]
    if not fit or y.shape != x.shape[1:2] or test_y.shape != test_x.shape[1:2]:
        raise ValueError(f"need (L, N, D), (N,), (L, M, D), (M,); got {shapes}")
    if len(y) < MIN_ROWS or not len(test_y):
        raise RepaError(
            f"linear probing needs {MIN_ROWS} training images or more and test images; "
            f"got {len(y)} and {len(test_y)}"
        )
    if min(y.min(), test_y.min()) < 0:
        raise ValueError("labels must not be negative")
    if y.min() == y.max():
        raise RepaError(
            f"linear probing needs images of two classes or more; all {len(y)} training images "
            f"have label {int(y[0])}"
        )


def _groups(x: Tensor, test_x: Tensor, classes: int) -> Iterator[slice]:
    """Layers to train together."""
    layers, rows, dim = x.shape
    batch, _ = _batch_and_steps(rows)
    outputs = len(GRID) * classes
    # Weights, velocity, gradient and decay; logits, errors and what softmax makes of them.
    numbers = 4 * dim * outputs + 3 * batch * outputs + 8 * dim**2
    numbers += (rows + test_x.shape[1]) * dim
    size = max(1, GROUP_BYTES // (4 * numbers))
    return (slice(start, start + size) for start in range(0, layers, size))


def _principal_axes(features: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What takes features (L, N, D) to the axes along which standardized ones vary most and least.

    Returns:
        On the device, their mean (L, 1, D); the rotation (L, D, D) to apply after it, which divides
        by the deviations too; and the variance (L, D) along each axis.
    """
    chunks = features.split(CHUNK, dim=1)
    total = sum(chunk.to(device).sum(1, True, dtype=torch.float64) for chunk in chunks)
    mean = (total / features.shape[1]).float()  # (L, 1, D)
    covariance = torch.zeros(*features.shape[::2], features.shape[2], device=device)
    for chunk in chunks:
        centered = chunk.to(device).float() - mean
        covariance += centered.mT @ centered / features.shape[1]
    _require_finite(covariance)
    std = covariance.diagonal(dim1=1, dim2=2).sqrt()  # (L, D)
    # What float32 cannot tell from a constant counts as one, and gets no weight.
    scale = torch.where(std > 1e-6 * mean[:, 0].abs(), 1 / std, 0)
    correlation = covariance * scale[:, :, None] * scale[:, None, :]
    # In float32 it may not converge, and has no small variances.
    variances, axes = torch.linalg.eigh(correlation.double())
    return mean, scale[:, :, None] * axes.float(), variances.clamp(min=0).float()


def _rotated(features: Tensor, mean: Tensor, rotation: Tensor) -> Tensor:
    """Features (L, n, D) along their principal axes, and a 1 for the bias: (L, n, D + 1), float32.

    On the axes' device, unless even one layer is too large for it.
    """
    layers, rows, dim = features.shape
    fits = 4 * features.numel() <= GROUP_BYTES
    result = torch.ones(layers, rows, dim + 1, device=rotation.device if fits else features.device)
    for start in range(0, rows, CHUNK):
        place = slice(start, start + CHUNK)
        centered = features[:, place].to(rotation.device).float() - mean
        result[:, place, :dim] = centered @ rotation
    _require_finite(result)
    return result


def _require_finite(values: Tensor) -> None:
    if not values.isfinite().all():
        raise RepaError(
            "linear probing: features are not finite numbers: has the training of this model "
            "diverged, or is its checkpoint damaged?"
        )


def _choose(
    x: Tensor, y: Tensor, classes: int, variances: Tensor, seed: int
) -> list[tuple[float, float]]:
    """Each layer's best pair of learning rate and weight decay."""
    rows = torch.arange(len(y))
    held_out = rows % HELD_OUT == HELD_OUT - 1
    grid = torch.tensor(GRID).expand(len(x), -1, -1)  # (L, G, 2)
    weights = _train(x, y, rows[~held_out], classes, variances, grid, seed)
    top1, _, loss = (values.tolist() for values in _judge(x, y, rows[held_out], weights))
    return [
        GRID[max(range(len(GRID)), key=lambda g: (accuracies[g], -losses[g]))]
        for accuracies, losses in zip(top1, loss, strict=True)
    ]


def _train(
    x: Tensor, y: Tensor, rows: Tensor, classes: int, variances: Tensor, pairs: Tensor, seed: int
) -> Tensor:
    """Classifiers for all layers and G pairs of learning rate and weight decay.

    Gradient descent with momentum; the step along an axis is the learning rate over the curvature
    `p (1 - p) variance + weight_decay` that a class of frequency p has at the start.

    Args:
        x: (L, n, D + 1), see `_rotated`.
        y: (n,), on the device of the training.
        rows: those to train on, int64 on the CPU.
        classes: number of classes C.
        variances: (L, D).
        pairs: (L, G, 2).
        seed: of the order of the rows.

    Returns:
        Weights (L, D + 1, G, C), the bias last.
    """
    device = y.device
    rate, decay = pairs.to(device)[:, None, :, :, None].unbind(3)  # (L, 1, G, 1)
    is_weight = torch.ones(x.shape[2], 1, 1, device=device)
    is_weight[-1] = 0
    decay = decay * is_weight  # (L, D + 1, G, 1)
    frequencies = torch.bincount(y[rows.to(device)], minlength=classes) / len(rows)
    curvature = (frequencies * (1 - frequencies)).max()
    along = torch.cat([variances, torch.ones_like(variances[:, :1])], dim=1)[:, :, None, None]
    step_size = rate / (curvature * along + decay)  # (L, D + 1, G, 1)

    weights = torch.zeros(*x.shape[::2], pairs.shape[1], classes, device=device)
    velocity = torch.zeros_like(weights)
    batch, steps = _batch_and_steps(len(rows))
    for step, chosen in zip(range(steps), _batches(rows, batch, seed), strict=False):
        inputs, labels = x[:, chosen.to(x.device)].to(device), y[chosen.to(device)]
        logits = inputs @ weights.flatten(2)  # (L, B, G C)
        error = logits.unflatten(2, weights.shape[2:]).softmax(-1)
        error[:, torch.arange(batch, device=device), :, labels] -= 1
        gradient = torch.baddbmm(
            (decay * weights).flatten(2), inputs.mT, error.flatten(2), alpha=1 / batch
        ).view_as(weights)
        velocity.mul_(MOMENTUM).add_(gradient.mul_(step_size))
        weights.sub_(velocity, alpha=0.5 + 0.5 * math.cos(math.pi * step / steps))
    return weights


def _batch_and_steps(rows: int) -> tuple[int, int]:
    batch = min(rows, max(MIN_BATCH, min(rows // 16, MAX_BATCH)))
    return batch, min(max(EPOCHS * rows // batch, MIN_STEPS), MAX_STEPS)


def _batches(rows: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    """Whole batches of the rows, in a new order each epoch, without end."""
    for epoch in itertools.count():
        order = stream(seed, Purpose.PROBING, epoch).permutation(len(rows))
        shuffled = rows[torch.from_numpy(order.astype(np.int64))]
        yield from shuffled[: len(rows) // batch * batch].split(batch)


def _judge(x: Tensor, y: Tensor, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Top-1 and top-5 accuracy and mean cross-entropy on some rows, (L, G) each."""
    sums = torch.zeros(3, len(x), weights.shape[2], device=y.device)
    for chosen in rows.split(CHUNK):
        inputs, labels = x[:, chosen.to(x.device)].to(y.device), y[chosen.to(y.device)]
        logits = (inputs @ weights.flatten(2)).unflatten(2, weights.shape[2:])  # (L, n, G, C)
        highest = logits.topk(min(5, logits.shape[3]), dim=3).indices
        hits = highest == labels[:, None, None]
        own = logits.gather(3, labels[:, None, None].expand(*logits.shape[:3], 1))[..., 0]
        losses = logits.logsumexp(3) - own
        sums += torch.stack([hits[..., 0].sum(1), hits.any(3).sum(1), losses.sum(1)])
    top1, top5, loss = sums.double() / len(rows)
    return top1, top5, loss
