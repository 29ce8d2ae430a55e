"""`repa evaluate`: samples against reference images."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from repa.config import EvaluateOptions
from repa.data.format import write_atomically
from repa.devices import pick_device
from repa.errors import RepaError
from repa.evaluation.frechet import frechet_distance
from repa.evaluation.images import ImageSet
from repa.evaluation.inception_score import inception_score
from repa.evaluation.networks import create_network, extract
from repa.evaluation.precision_recall import precision_recall


def compare(real: Tensor, fake: Tensor, fake_probabilities: Tensor, k: int = 3) -> dict[str, float]:
    """All metrics of one set of samples.

    Args:
        real, fake: features (N, D) and (M, D) of the reference images and of the samples.
        fake_probabilities: the samples' class probabilities (M, K).
        k: neighbor of precision and recall.
    """
    precision, recall = precision_recall(real, fake, k)
    return {
        "frechet_distance": frechet_distance(real, fake),
        "precision": precision,
        "recall": recall,
        "inception_score": inception_score(fake_probabilities),
    }


def run_evaluate(options: EvaluateOptions) -> None:
    """Prints the metrics, and writes them as JSON where `--output` says.

    Raises:
        RepaError: if a set of images or the network cannot be had, or a set is too small.
    """
    device = pick_device(options.device)
    _check_output(options.output)
    sets = {"reference": ImageSet(options.reference), "samples": ImageSet(options.samples)}
    for name, images in sets.items():
        if len(images) <= options.neighbors:
            raise RepaError(f"--{name} {images.path}: {len(images)} images are too few")
    network = create_network(options.network).to(device)
    features = {}
    for name, images in sets.items():
        batches = images.batches(options.batch_size)
        total = -(-len(images) // options.batch_size)
        features[name] = extract(network, tqdm(batches, name, total, unit="batch"), device)
    (real, _), (fake, probabilities) = features["reference"], features["samples"]
    if min(len(real), len(fake)) <= real.shape[1]:
        print(
            f"warning: fewer images than the network's {real.shape[1]} features: the Frechet "
            "distance is biased upwards; compare only equal counts"
        )
    metrics = compare(real, fake, probabilities, options.neighbors)
    result = {
        "network": options.network,
        "samples": len(fake),
        "reference": len(real),
        **metrics,
    }
    for name, value in result.items():
        print(f"{name:18}{value:.4f}" if isinstance(value, float) else f"{name:18}{value}")
    if options.output is not None:
        write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")


def _check_output(path: Path | None) -> None:
    """Finds out before the work, not after it, that its result cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise RepaError(f"--output {path} is a folder; expected the name of a JSON file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepaError(f"--output {path}: {error}") from None
