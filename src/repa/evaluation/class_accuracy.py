"""Whether samples show the class they were drawn for, as a classifier sees it."""

from __future__ import annotations

from torch import Tensor

from repa.errors import RepaError
from repa.evaluation.networks import Network


def class_accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """The share of samples whose most probable class is their own; the first one, if several are.

    The classification accuracy score turned round: there a classifier learns from samples and is
    tested on real images (Ravuri and Vinyals, 2019), here it has learned from real images.

    Args:
        probabilities: (N, K), floating.
        labels: (N,), int64, in [0, K).

    Returns:
        Between 0 and 1.

    Raises:
        ValueError: if the numbers of rows differ, or a label is outside.
    """
    count, classes = probabilities.shape
    if labels.shape != (count,) or not ((labels >= 0) & (labels < classes)).all():
        raise ValueError(f"labels {tuple(labels.shape)} for probabilities {(count, classes)}")
    return (probabilities.argmax(1) == labels).double().mean().item()


def check_labels(title: str, labels: Tensor | None, network: Network) -> None:
    """Finds out before the work whether a network's classes can be those of the labels.

    Args:
        title: what has the labels, for messages.
        labels: (N,), int64; None if they are not known.
        network: any.

    Raises:
        RepaError: if it is a classifier of fewer classes.
    """
    if labels is None or not network.classes:
        return
    outside = labels[(labels < 0) | (labels >= len(network.classes))]
    if len(outside):
        raise RepaError(
            f"{title}: label {int(outside[0])} is none of the classes of {network.name}, "
            f"0 to {len(network.classes) - 1}: give one that was trained on these classes"
        )
