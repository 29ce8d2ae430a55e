"""The metrics of a set of samples, by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from repa.evaluation.class_accuracy import class_accuracy
from repa.evaluation.cmmd import cmmd
from repa.evaluation.frechet import Gaussian, frechet_distance
from repa.evaluation.inception_score import inception_score
from repa.evaluation.kernel_distance import kernel_distance
from repa.evaluation.networks import Features
from repa.evaluation.precision_recall import precision_recall
from repa.evaluation.statistics import Reference

# Some metrics have names of their own on the features of one network.
FRECHET = {"frechet_distance", "fid", "fd_dinov2"}
KERNEL = {"kernel_distance", "kid"}
NEED_FEATURES = {"precision", "recall", "cmmd"} | KERNEL


def compare(
    reference: Reference,
    samples: Features,
    metrics: Sequence[str],
    k: int = 3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    labels: Tensor | None = None,
) -> dict[str, float]:
    """Metrics of one set of samples, in the order asked for.

    Those that the reference does not allow are left out: of bare statistics there are only Frechet
    distances, and without spatial ones no sFID. The Inception Score needs no reference, nor does
    the accuracy of classes, which needs labels.

    Args:
        reference: from the same network as the samples' features.
        samples: features of the samples.
        metrics: names, such as a network's `metrics`.
        k: neighbor of precision and recall.
        seed: of the kernel distance's subsets.
        device: where to compute, in float64.
        labels: (N,) int64, the classes the samples were drawn for; None if they are not known.

    Raises:
        ValueError: if a name is unknown or a set is too small.
    """
    result: dict[str, float] = {}
    real, fake = reference.features, samples.features
    for name in metrics:
        if name in FRECHET:
            result[name] = frechet_distance(reference.gaussian, Gaussian.fit(fake, device))
        elif name == "sfid":
            if reference.spatial is not None and samples.spatial is not None:
                spatial = Gaussian.fit(samples.spatial, device)
                result[name] = frechet_distance(reference.spatial, spatial)
        elif name == "inception_score" and samples.probabilities is not None:
            result[name] = inception_score(samples.probabilities)
        elif name == "class_accuracy":
            if labels is not None and samples.probabilities is not None:
                result[name] = class_accuracy(samples.probabilities, labels)
        elif name not in NEED_FEATURES:
            raise ValueError(f"unknown metric {name!r}")
        elif real is None:
            continue
        elif name == "cmmd":
            result[name] = cmmd(real, fake, device)
        elif name in KERNEL:
            result[name] = kernel_distance(real, fake, seed=seed, device=device)
        elif name not in result:  # precision and recall come together
            both = precision_recall(real, fake, k, device)
            result |= dict(zip(("precision", "recall"), both, strict=True))
    return {name: result[name] for name in metrics if name in result}
