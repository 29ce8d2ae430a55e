"""`repa evaluate`: samples against a reference."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import repa
from repa.config import EvaluateOptions
from repa.errors import RepaError
from repa.evaluation.class_accuracy import check_labels
from repa.evaluation.clip_score import load_scorer, score_prompts
from repa.evaluation.compare import FRECHET, KERNEL, compare
from repa.evaluation.images import ImageSet, digest, shown_size
from repa.evaluation.kernel_distance import SUBSET_SIZE
from repa.evaluation.nearest import check_images, find_nearest, save_picture
from repa.evaluation.networks import NETWORKS, Features, Network, create_network
from repa.evaluation.prompts import find_prompts
from repa.evaluation.reference import check_count, features_of, load_reference
from repa.evaluation.statistics import Reference, save_reference
from repa.evaluation.targets import check_targets, writing
from repa.processes import start_processes
from repa.sampling.archive import read_request

ADDED = ("memorized", "nearest_distance", "clip_score")  # to the network's metrics, where wanted


def run_evaluate(options: EvaluateOptions) -> None:
    """Prints the metrics, and writes them as JSON where `--output` says; see `evaluate`."""
    result = evaluate(options)
    if result is not None:
        _print_table(result)


def evaluate(options: EvaluateOptions) -> dict[str, Any] | None:
    """Measures samples against a reference, and writes the result where `--output` says.

    Of samples of texts it also measures how well they show these (`repa.evaluation.clip_score`).
    Started on several processes, each computes the features of its share of the images.

    Returns:
        The result, as it is written; None on other processes than the first.

    Raises:
        RepaError: if a set of images, statistics or the network cannot be had, a set is too small,
            features or a metric are not finite, prompts do not fit, or a result must not or cannot
            be written.
    """
    check_targets(options)
    if options.nearest is not None:
        check_images(options.reference)
    state = start_processes(options.device)
    images = ImageSet(options.samples)
    check_count("samples", images.path, len(images), options.neighbors)
    prompts = find_prompts(options, len(images))
    with state.local_main_process_first():  # the others wait while one downloads the network
        network = create_network(options.network, options.network_weights).to(state.device)
        scorer = None if prompts is None else load_scorer(options.clip, options.clip_weights)
    check_labels(f"the samples {images.path}", images.labels, network)
    with ThreadPoolExecutor(1) as background:  # hashing large files takes as long as reading them
        paths = (options.samples, options.reference) if state.is_main_process else ()
        digests = [background.submit(digest, path) for path in paths]
        reference = load_reference(
            options.reference, network, state.device, options.batch_size, options.neighbors
        )
        samples = features_of(images, network, state.device, options.batch_size, "samples")
        scored = None
        if prompts is not None and scorer is not None:
            scorer = scorer.to(state.device)
            scored = score_prompts(scorer, images, prompts, options.batch_size, state)
        if not state.is_main_process:
            return None
        if options.save_stats is not None:
            save_reference(options.save_stats, reference, network)
        for line in _remarks(images, samples, reference, network):
            print(line)
        for line in () if scored is None else scored.remarks():
            print(line)
        metrics = _finite_metrics(options, reference, samples, network, state.device, images.labels)
        metrics |= _find_copies(options, images, samples, reference, state.device)
        sample_digest, reference_digest = (future.result() for future in digests)
    record = {
        "network": network.name,
        "network_weights": network.fingerprint,
        **({} if network.accuracy is None else {"network_accuracy": network.accuracy}),
        "samples": {
            **_record(options.samples, sample_digest, len(samples)),
            **_drawn(options.samples),
        },
        "reference": {
            **_record(options.reference, reference_digest, reference.num_images),
            "stored_statistics": reference.stored,
        },
        **metrics,
        **({} if scored is None else scored.record()),
        "neighbors": options.neighbors,
        "seed": options.seed,
        "versions": {
            "repa": repa.__version__,
            "torch": torch.__version__,
            network.library: version(network.library),
            **({} if scored is None else {"transformers": version("transformers")}),
        },
    }
    if options.prompt_scores is not None and scored is not None:
        scored.save(options.prompt_scores)
    if options.output is not None:
        with writing("--output", options.output) as file:
            file.write(json.dumps(record, indent=1, allow_nan=False).encode() + b"\n")
    return record


def _record(path: Path, sha256: str, count: int | None) -> dict[str, Any]:
    return {"path": str(path), "sha256": sha256, "count": count}


def _drawn(path: Path) -> dict[str, Any]:
    """How samples were drawn, if `repa sample` drew them: its record lies beside the npz."""
    with suppress(RepaError):  # a file of that name may be anything
        if path.suffix == ".npz" and (request := read_request(path.with_suffix(".json"))):
            return {"drawn": request}
    return {}


def _finite_metrics(
    options: EvaluateOptions,
    reference: Reference,
    samples: Features,
    network: Network,
    device: torch.device,
    labels: Tensor | None,
) -> dict[str, float]:
    """The metrics, of which none overflowed: features are finite, but statistics can be huge."""
    advice = f"are the statistics in --reference {options.reference} those of {network.name}?"
    try:
        metrics = compare(
            reference, samples, network.metrics, options.neighbors, options.seed, device, labels
        )
    except torch.linalg.LinAlgError:
        raise RepaError(
            f"the covariances have no eigenvalues that can be computed: {advice}"
        ) from None
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise RepaError(f"{name} is {value}, not a finite number: {advice}")
    return metrics


def _find_copies(
    options: EvaluateOptions,
    images: ImageSet,
    samples: Features,
    reference: Reference,
    device: torch.device,
) -> dict[str, float]:
    """What `--nearest` asks for: the picture, and how near samples are to reference images."""
    if options.nearest is None or reference.features is None:
        return {}
    nearest = find_nearest(reference.features, samples.features, device)
    save_picture(options.nearest, nearest, images, ImageSet(options.reference))
    found = {"memorized": nearest.memorized, "nearest_distance": nearest.nearest_distance}
    return {name: value for name, value in found.items() if value is not None}


def _remarks(
    images: ImageSet, samples: Features, reference: Reference, network: Network
) -> Iterator[str]:
    """What the user should know of the comparison, a line each."""
    sizes = (("samples are", images.size), ("reference is", reference.image_size))
    for subject, size in sizes:
        if size is not None and size[0] != size[1]:
            how = "cropped" if network.name == "clip" else "distorted"
            yield f"warning: the {subject} {shown_size(size)}, {how} to a square"
    if reference.image_size not in (None, images.size):
        theirs = shown_size(reference.image_size)
        yield f"note: samples are {shown_size(images.size)}, the reference is {theirs}"
    if network.classes and images.classes not in (None, network.classes):
        yield (
            f"warning: the classes of the samples are not named as those of {network.name}: "
            "class_accuracy needs the same ones in the same order"
        )
    counts = [len(samples)] + ([] if reference.count is None else [reference.count])
    if FRECHET & set(network.metrics) and min(counts) <= network.dim:
        yield (
            f"warning: fewer images than the network's {network.dim} features: the Frechet "
            "distance is biased upwards; compare only equal counts"
        )
    if KERNEL & set(network.metrics) and reference.features is not None:
        rows = min(len(samples), len(reference.features))
        if rows < SUBSET_SIZE:
            yield f"note: kernel distance of {rows} images a side, not of {SUBSET_SIZE:,}"


def _print_table(result: Mapping[str, Any]) -> None:
    reference = result["reference"]
    known = [] if reference["count"] is None else [f"{reference['count']:,} images"]
    known += ["stored statistics"] if reference["stored_statistics"] else []
    wanted = NETWORKS[result["network"]].metrics
    rows = {
        "network": result["network"],
        **{name: f"{result[name]:.4f}" for name in ("network_accuracy",) if name in result},
        "samples": f"{result['samples']['count']:,} images",
        "reference": ", ".join(known),
        **{name: f"{result[name]:.5f}" for name in (*wanted, *ADDED) if name in result},
    }
    for name, value in rows.items():
        print(f"{name:20}{value}")
    left_out = [name for name in wanted if name not in result]
    if "class_accuracy" in left_out:
        left_out.remove("class_accuracy")
        print("left out, as the labels of the samples are not known: class_accuracy")
    if left_out:
        print(f"left out, as the reference has no features for them: {', '.join(left_out)}")
