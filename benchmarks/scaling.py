"""How a training step's time grows with the batch and with the model's depth.

    python benchmarks/scaling.py [--batches 4 8 16 32] [--depths 3 6 12 24] [--width 192]
        [--rounds 5] [--precision default] [--json OUT]

The step is that of `repa train` on one process, for a SiT of patches of 2 with heads of 64, tokens
of DINOv2-B given. Batches are those of a model of 6 blocks (width 192 makes it SiT-Ti/2), depths
those of a batch of 8. Each point has a process of its own; steps alternate, medians are taken.

The exponent is the slope of a straight line through the logarithms of time and size: 1 is time in
proportion to size, less is a cost that does not grow, more is waste. What does not grow (the
optimizer for the batch; embeddings, projection head and loss for the depth) is told as its share of
the largest point, from a straight line through the times themselves. A growing step can hide behind
such a cost, so the last column is what each further image or block took between two points.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from own_step import own_step
from processes import Make, in_turn
from random_dataset import CLASSES, LATENT, write_random_dataset
from result import write_result
from train_step import ENCODER, PRECISIONS

from repa.config import TrainOptions
from repa.models import SiT

BATCH = 8  # where depths are compared
DEPTH = 6  # where batches are
HEAD = 64  # width of an attention head


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 6, 12, 24])
    parser.add_argument("--width", type=int, default=192, help=f"of the model, {HEAD} a head")
    parser.add_argument("--rounds", type=int, default=20 if on_gpu else 5)
    parser.add_argument("--precision", default="default", choices=PRECISIONS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.width % HEAD:
        parser.error(f"--width {arguments.width}: expected a multiple of {HEAD}")
    for name in ("batches", "depths"):
        if len(set(getattr(arguments, name))) < 2:
            parser.error(f"--{name}: a line needs two different sizes")

    with tempfile.TemporaryDirectory() as folder:
        measured = in_turn(make_ways(arguments, Path(folder)), arguments.rounds)
    seconds = {name: taken.median for name, taken in measured.items()}
    result: dict[str, Any] = {}
    for name, sizes in (("batch", arguments.batches), ("depth", arguments.depths)):
        sizes = sorted(set(sizes))
        result[name] = growth(sizes, [seconds[f"{name} {size}"] for size in sizes])
        report(name, result[name])
    write_result(arguments, **result)


def make_ways(arguments: argparse.Namespace, folder: Path) -> dict[str, Make]:
    """A step at each batch size, and at each depth."""
    largest = max(*arguments.batches, BATCH)
    options = TrainOptions(
        exp_name="benchmark",
        output_dir=folder,
        report_to="none",
        data_dir=write_random_dataset(folder / "data", largest, ENCODER),
        model="SiT-Ti/2",  # not used: `step` makes its own
        enc_type=ENCODER,
        encoder_depth=min(*arguments.depths, DEPTH),
        mixed_precision=PRECISIONS[arguments.precision],
        compile=False,
    )
    ways: dict[str, Make] = {}
    for batch in arguments.batches:
        ways[f"batch {batch}"] = partial(step, options, batch, DEPTH, arguments.width)
    for depth in arguments.depths:
        ways[f"depth {depth}"] = partial(step, options, BATCH, depth, arguments.width)
    return ways


def step(options: TrainOptions, batch: int, depth: int, width: int) -> Callable[[], None]:
    """The step of a SiT of that shape."""
    make_model = partial(
        SiT,
        input_size=LATENT[-1],
        in_channels=LATENT[0],
        num_classes=CLASSES,
        depth=depth,
        hidden_size=width,
        num_heads=width // HEAD,
    )
    return own_step(options, batch, make_model)


def growth(sizes: list[int], seconds: list[float]) -> dict[str, Any]:
    """How the seconds grow with the sizes, which ascend; see the head of this file."""
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    slope, fixed = np.polyfit(sizes, seconds, 1)
    further = np.diff(seconds) / np.diff(sizes)
    return {
        "sizes": sizes,
        "seconds": seconds,
        "exponent": float(exponent),
        "fixed_share": float(fixed / (fixed + slope * sizes[-1])),
        "seconds_of_each_further": further.tolist(),
    }


def report(name: str, found: dict[str, Any]) -> None:
    print(f"{name:>8}{'seconds':>10}{'each further':>14}")
    further = [None, *found["seconds_of_each_further"]]
    for size, seconds, each in zip(found["sizes"], found["seconds"], further, strict=True):
        print(f"{size:8}{seconds:10.3f}" + ("" if each is None else f"{each:14.4f}"))
    print(f"exponent {found['exponent']:.2f}; {found['fixed_share']:.0%} does not grow\n")


if __name__ == "__main__":
    main()
