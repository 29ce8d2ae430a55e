"""Evaluating: precision and recall against the plain way, their memory, and Inception's rate.

    python benchmarks/evaluating.py [--size 10000] [--samples 50000] [--threads 2] [--json OUT]

- precision_recall: of `--size` features a side, 2048 wide and in clusters, ours against distances
  by scipy's cdist in float64 with numpy's partition, alternating in one run. Both must agree.
- memory: peak of a process that does it for `--samples` samples and 10,000 reference images;
  0 leaves this out, which takes minutes.
- inception: images a second of Inception with random weights, in slices and channels-last (ours)
  against torch-fidelity's own way.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import medians
from torch import Tensor
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from repa.evaluation import precision_recall
from repa.evaluation.networks import create_network

DIM, K = 2048, 3
ROWS = 1000  # of distances in memory at a time, the plain way


def clusters(count: int, seed: int, modes: range) -> Tensor:
    """Features (count, 2048), float32: as Inception's not negative and of few real dimensions."""
    shared = torch.Generator().manual_seed(0)
    centers = torch.randn(40, 12, generator=shared) * 2
    lift = torch.randn(12, DIM, generator=shared) / 12**0.5
    own = torch.Generator().manual_seed(seed)
    mode = torch.randint(modes.start, modes.stop, (count,), generator=own)
    points = centers[mode] + torch.randn(count, 12, generator=own)
    return (points @ lift).relu_()


def plain(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """The definition with scipy, in parts where all distances would not fit in memory."""
    from scipy.spatial.distance import cdist

    x, y = real.double().numpy(), fake.double().numpy()

    def radii(points: np.ndarray) -> np.ndarray:
        parts = (cdist(points[i : i + ROWS], points) for i in range(0, len(points), ROWS))
        return np.concatenate([np.partition(part, K, axis=1)[:, K] for part in parts])

    real_radii, fake_radii = radii(x), radii(y)
    precise, recalled = np.zeros(len(y), bool), np.zeros(len(x), bool)
    for i in range(0, len(x), ROWS):
        distances = cdist(x[i : i + ROWS], y)
        precise |= (distances <= real_radii[i : i + ROWS, None]).any(0)
        recalled[i : i + ROWS] = (distances <= fake_radii).any(1)
    return precise.mean(), recalled.mean()


def precision_recall_ratio(size: int, rounds: int) -> dict[str, float]:
    real, fake = clusters(size, 1, range(30)), clusters(size, 2, range(10, 40))
    found = {}

    def run(name: str) -> None:
        found[name] = (precision_recall if name == "ours" else plain)(real, fake)

    names = ("ours", "plain")
    seconds = medians({name: lambda name=name: run(name) for name in names}, rounds)
    difference = max(abs(a - b) for a, b in zip(found["ours"], found["plain"], strict=True))
    assert difference <= 1e-6, found
    assert 0.01 < min(found["ours"]) <= max(found["ours"]) < 0.99, found
    return {
        "size": size,
        "precision": found["ours"][0],
        "recall": found["ours"][1],
        "difference": difference,
        "ours_seconds": round(seconds["ours"], 2),
        "plain_seconds": round(seconds["plain"], 2),
        "ratio": round(seconds["plain"] / seconds["ours"], 1),
    }


CHILD = """
import resource, sys, time
import torch
from evaluating import clusters
from repa.evaluation import precision_recall

torch.set_num_threads(int(sys.argv[2]))
real, fake = clusters(10_000, 1, range(30)), clusters(int(sys.argv[1]), 2, range(10, 40))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
precision_recall(real, fake)
seconds = time.perf_counter() - started
print(seconds, before / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def memory(samples: int, threads: int) -> dict[str, float]:
    """In a new process, as peaks do not fall."""
    command = [sys.executable, "-c", CHILD, str(samples), str(threads)]
    folder = Path(__file__).parent
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    seconds, before, peak = map(float, done.stdout.split())
    return {
        "samples": samples,
        "samples_seconds": round(seconds, 1),
        "before_gib": round(before, 2),
        "peak_gib": round(peak, 2),
    }


def inception_rates(count: int, rounds: int) -> dict[str, float]:
    load = FeatureExtractorInceptionV3.load_state_dict
    feature_extractor_inceptionv3.load_state_dict_from_url = lambda *_, **__: {}
    FeatureExtractorInceptionV3.load_state_dict = lambda *_: None
    theirs = FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"])
    FeatureExtractorInceptionV3.load_state_dict = load
    with tempfile.TemporaryDirectory() as folder:
        torch.save(theirs.state_dict(), Path(folder, "weights.pth"))
        ours = create_network("inception", Path(folder, "weights.pth"))
    images = torch.randint(256, (count, 3, 256, 256), dtype=torch.uint8)
    with torch.no_grad():
        ways = {"ours": lambda: ours(images), "torch_fidelity": lambda: theirs(images)}
        seconds = medians(ways, rounds)
    return {f"inception_{name}_images_per_second": round(count / seconds[name], 2) for name in ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=10_000, help="features a side")
    parser.add_argument("--samples", type=int, default=50_000, help="for the peak of memory; or 0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if importlib.util.find_spec("scipy") is None:
        parser.exit(
            1, "scipy, which the plain way needs, is lacking: python -m pip install scipy\n"
        )
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    result = inception_rates(32, options.rounds)
    result |= precision_recall_ratio(options.size, options.rounds)
    if options.samples:
        result |= memory(options.samples, options.threads)
    result |= {
        "threads": options.threads,
        "cores": os.cpu_count() or 0,
        "benchmark_seconds": round(time.perf_counter() - started),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
