"""Probing and alignment: all layers at once against one after the other, and how much memory.

    python benchmarks/probing.py [cifar10-train.zip] [--images 64] [--rows 2000] [--json OUT]

- states: the hidden states of all 12 layers of SiT-B/2 for `--images` images of the zip at 32 px,
  read, noised and averaged (ours), against one plain forward pass over the same noisy inputs.
- classifiers: linear probing of 12 layers of `--rows` training rows, 768 wide, all together (ours)
  against scipy's L-BFGS in float64, layer by layer, which chooses among four weight decays. It is
  timed on every fifth layer. The layers are the images' pixels under more and more noise.
- similarity: CKNNA, CKA and mutual k-NN of `--similar` rows, 768 wide, in a process of its own:
  seconds of the first comparison, of one with another layer and of one more, and peak memory.
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

from repa.analysis.hidden_states import hidden_states
from repa.analysis.targets import pixel_features
from repa.autoencoders import Pixels
from repa.data import PreparedDataset
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import open_source
from repa.diffusion import FlowMatching
from repa.models import create_model

LAYERS, TESTS, BATCH = 12, 1000, 32
SCIPY_LAYERS = range(0, LAYERS, 5)
SCIPY_DECAYS = (1e-3, 1e-2, 1e-1, 1.0)
probing = importlib.import_module("repa.analysis.linear_probe")  # not the function of that name


def states_ratio(dataset: PreparedDataset, count: int, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = create_model(
        "SiT-B/2", input_size=32, in_channels=3, num_classes=10, fused_attn=False
    ).eval()
    inputs: list[tuple[Tensor, ...]] = []
    handle = model.register_forward_pre_hook(lambda _, seen: inputs.append(seen))

    def ours() -> Tensor:
        depths = range(1, model.depth + 1)
        return hidden_states(model, dataset, range(count), depths, FlowMatching(), batch_size=BATCH)

    assert ours().shape == (model.depth, count, model.hidden_size)
    handle.remove()

    @torch.no_grad()
    def plain() -> None:
        for x, t, y in inputs:
            model(x, t, y)

    seconds = medians({"ours": ours, "plain": plain}, rounds)
    return {
        "states_images": count,
        "states_seconds": round(seconds["ours"], 2),
        "forward_seconds": round(seconds["plain"], 2),
        "states_over_forward": round(seconds["ours"] / seconds["plain"], 3),
    }


def noisy_pixels(dataset: PreparedDataset, rows: int) -> tuple[Tensor, ...]:
    """Features and labels to train and to test with: (12, N, 768), (N,), (12, M, 768), (M,)."""
    pixels = pixel_features(dataset, range(rows + TESTS))
    labels = torch.from_numpy(dataset.labels)[: len(pixels)]
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(pixels)))
    noise = torch.randn(LAYERS, *pixels.shape, generator=torch.Generator().manual_seed(0))
    layers = pixels + torch.linspace(0, 0.5, LAYERS)[:, None, None] * noise
    train, test = order[:rows], order[rows:]
    return layers[:, train], labels[train], layers[:, test], labels[test]


def scipy_fit(x: np.ndarray, y: np.ndarray, decay: float) -> np.ndarray:
    """Weights (D + 1, 10), the bias last."""
    from scipy.optimize import minimize

    truth = np.eye(10)[y]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat[:-10].reshape(-1, 10), flat[-10:]
        logits = x @ weights + bias
        logits -= logits.max(1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        error = (np.exp(logits) - truth) / len(y)
        gradient = np.concatenate([(x.T @ error + decay * weights).ravel(), error.sum(0)])
        return decay / 2 * (weights**2).sum() - (logits * truth).sum() / len(y), gradient

    start = np.zeros(10 * (x.shape[1] + 1))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return found.x.reshape(-1, 10)


def scipy_probe(train: Tensor, y: Tensor, test: Tensor, test_y: Tensor) -> float:
    """One layer the usual way: weight decay by held-out accuracy, then all rows."""
    x = ((train - train.mean(0)) / train.std(0)).double().numpy()
    test_x = ((test - train.mean(0)) / train.std(0)).double().numpy()
    labels, held_out = y.numpy(), np.arange(len(y)) % 5 == 4

    def top1(weights: np.ndarray, inputs: np.ndarray, truth: np.ndarray) -> float:
        return ((inputs @ weights[:-1] + weights[-1]).argmax(1) == truth).mean()

    def held_out_top1(decay: float) -> float:
        weights = scipy_fit(x[~held_out], labels[~held_out], decay)
        return top1(weights, x[held_out], labels[held_out])

    best = max(SCIPY_DECAYS, key=held_out_top1)
    return top1(scipy_fit(x, labels, best), test_x, test_y.numpy())


def classifier_ratio(dataset: PreparedDataset, rows: int, rounds: int) -> dict[str, float]:
    train, y, test, test_y = noisy_pixels(dataset, rows)
    found: dict[str, list[float]] = {}

    def ours() -> None:
        found["ours"] = [r.top1 for r in probing.linear_probes(train, y, test, test_y)]

    seconds = medians({"ours": ours}, rounds)["ours"] / LAYERS
    started = time.perf_counter()
    found["scipy"] = [scipy_probe(train[i], y, test[i], test_y) for i in SCIPY_LAYERS]
    scipy_seconds = (time.perf_counter() - started) / len(SCIPY_LAYERS)
    found["ours"] = [found["ours"][i] for i in SCIPY_LAYERS]
    accuracy = {name: float(np.mean(values)) for name, values in found.items()}
    assert accuracy["ours"] > accuracy["scipy"] - 0.01, accuracy
    return {
        "classifier_rows": rows,
        "classifier_seconds": round(seconds * LAYERS, 2),
        "classifier_seconds_a_layer": round(seconds, 2),
        "scipy_seconds_a_layer": round(scipy_seconds, 2),
        "scipy_over_classifier": round(scipy_seconds / seconds, 1),
        "classifier_top1": round(accuracy["ours"], 4),
        "scipy_top1": round(accuracy["scipy"], 4),
    }


CHILD = """
import json, re, sys, time
from pathlib import Path
import torch
from repa.analysis import Representation, compare

def peak():  # getrusage would count what this process was before it became Python
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20

torch.set_num_threads(int(sys.argv[2]))
torch.manual_seed(0)
a, b, c = torch.randn(3, int(sys.argv[1]), 768)
before, times = peak(), [time.perf_counter()]
target, layer = Representation(a), Representation(b)
compare(target, layer)
times.append(time.perf_counter())
other = Representation(c)
compare(target, other)
times.append(time.perf_counter())
compare(layer, other)
times.append(time.perf_counter())
print(json.dumps([before, peak(), *(j - i for i, j in zip(times, times[1:]))]))
"""


def similarity(rows: int, threads: int) -> dict[str, float]:
    """In a new process, as peaks do not fall."""
    command = [sys.executable, "-c", CHILD, str(rows), str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, peak, first, next_layer, again = json.loads(done.stdout)
    return {
        "similarity_rows": rows,
        "similarity_first_seconds": round(first, 2),
        "similarity_next_layer_seconds": round(next_layer, 2),
        "similarity_known_seconds": round(again, 2),
        "similarity_before_gib": round(before, 2),
        "similarity_peak_gib": round(peak, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "source",
        nargs="?",
        default="twemoji",
        help="images of at most 10 classes: CIFAR-10",
    )
    parser.add_argument("--images", type=int, default=64, help="through SiT-B/2")
    parser.add_argument("--rows", type=int, default=2000, help="to train classifiers on")
    parser.add_argument("--similar", type=int, default=10_000, help="rows to compare")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if importlib.util.find_spec("scipy") is None:
        parser.exit(
            1, "scipy, which the plain way needs, is lacking: python -m pip install scipy\n"
        )
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        count = max(options.images, options.rows + TESTS)
        source, work = open_source(options.source), Work(num_workers=0)
        prepare(source, Path(folder, "data"), 32, Pixels(), {}, max_images=count, work=work)
        dataset = PreparedDataset(Path(folder, "data"))
        result = states_ratio(dataset, options.images, options.rounds)
        result |= classifier_ratio(dataset, options.rows, options.rounds)
    result |= similarity(options.similar, options.threads)
    result |= {"threads": options.threads, "cores": os.cpu_count() or 0}
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
