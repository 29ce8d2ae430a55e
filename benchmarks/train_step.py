"""A training step, ours and the release's, on the same images in one run.

    python benchmarks/train_step.py [--against RELEASE] [--model SiT-S/2] [--batch 16] [--cached]
        [--ours default fp32 bf16+compile ...] [--release fp16 ...] [--rounds 10] [--json OUT]

Ours is what `repa train` runs; the release's is its model, loss, EMA and optimizer, from a
checkout, as its loop runs them. Both compute the tokens of DINOv2-B (timm's network with random
weights); with `--cached` both are given them. Each way has a process of its own; steps alternate,
and medians are compared.

A way of ours is a precision (fp32, bf16, fp16; default is what `repa train` picks on this device),
then `+compile` or `+eager`; without either it is compiled as a long run of `repa train` is.
Ratios are to the first way of the release, or to the last way where there is none of it.
Utilization is what the matrix products of backbone and heads (three times the forward pass) and of
the encoder take, over what the device's fastest square matrix product does in that precision.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flops import ceiling, forward_flops, network_flops
from own_step import own_step
from processes import Make, Measured, in_turn
from random_dataset import write_random_dataset, write_random_encoder
from release import release_step
from result import write_result

from repa.config import Precision, TrainOptions
from repa.data import open_dataset
from repa.data.features import unpack_features
from repa.data.visits import Arrays, Visits
from repa.devices import pick_precision
from repa.encoders import create_encoder

ENCODER = "dinov2-vit-b"
PRECISIONS: dict[str, Precision] = {"default": "auto", "fp32": "no", "bf16": "bf16", "fp16": "fp16"}
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPILED = {"": None, "compile": True, "eager": False}


def main() -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, help="checkout of the release")
    parser.add_argument("--model", default="SiT-S/2")
    parser.add_argument("--batch", type=int, default=256 if on_gpu else 16)
    parser.add_argument("--cached", action="store_true", help="tokens are given, not computed")
    parser.add_argument("--ours", nargs="+", default=["default"] if on_gpu else ["default", "fp32"])
    parser.add_argument("--release", nargs="+", default=["fp16"] if on_gpu else ["fp32"])
    parser.add_argument("--allow-tf32", action="store_true", help="of both, on CUDA")
    parser.add_argument("--rounds", type=int, default=20 if on_gpu else 7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        ways = make_ways(arguments, Path(folder))
        measured = in_turn(ways, arguments.rounds)
    device = torch.device("cuda" if on_gpu else "cpu")
    operations = step_flops(arguments.model, arguments.batch, arguments.cached)
    ceilings: dict[Precision, float] = {}
    rows = []
    for name, taken in measured.items():
        precision = precision_of(name, device)
        if precision not in ceilings:
            ceilings[precision] = ceiling(DTYPES[precision], device)
        rows.append(row(name, taken, arguments.batch, operations, ceilings[precision]))
    base = next((line for line in rows if line["way"].startswith("release")), rows[-1])
    for line in rows:
        line["ratio"] = line["images_per_second"] / base["images_per_second"]
    report(rows, ceilings)
    write_result(arguments, flops_per_step=operations, ceilings=ceilings, ways=rows)


def make_ways(arguments: argparse.Namespace, folder: Path) -> dict[str, Make]:
    """What to measure."""
    weights = folder / "weights"
    weights.mkdir()
    if not arguments.cached:
        write_random_encoder(weights, ENCODER)
    data = write_random_dataset(
        folder / "data", arguments.batch, ENCODER if arguments.cached else None
    )
    ways: dict[str, Make] = {}
    for name in arguments.ours:
        precision, _, compiled = name.partition("+")
        options = TrainOptions(
            exp_name="benchmark",
            output_dir=folder,
            report_to="none",
            data_dir=data,
            model=arguments.model,
            enc_type=ENCODER,
            encoder_weights=weights,
            batch_size=arguments.batch,
            mixed_precision=PRECISIONS[precision],
            allow_tf32=arguments.allow_tf32,
            compile=COMPILED[compiled],
        )
        ways[f"ours {name}"] = partial(own_step, options, arguments.batch)
    for name in arguments.release if arguments.against is not None else []:
        ways[f"release {name}"] = partial(
            their_step, arguments.against, arguments.model, PRECISIONS[name],
            data, weights, arguments.allow_tf32,
        )  # fmt: skip
    return ways


def their_step(
    checkout: Path, model: str, precision: str, data: Path, weights: Path, tf32: bool
) -> Callable[[], None]:
    """A step of the release's loop on the same images."""
    dataset = open_dataset(data)
    tokens, network = None, None
    keys = {"image", "latent", "label"}
    if ENCODER in dataset.manifest.features:
        keys |= {f"features.{ENCODER}"}
    else:
        network = create_encoder(ENCODER, weights=weights).network
    arrays = read_batch(data, len(dataset), keys)
    if network is None:
        tokens = unpack_features(ENCODER, arrays)
    return release_step(checkout, model, precision, arrays, tokens, network, tf32)


def read_batch(data: Path, size: int, keys: set[str]) -> Arrays:
    """All images of the dataset, as a loader gives them."""
    arrays = Visits(open_dataset(data), 0, keys).read(range(size))
    on_gpu = torch.cuda.is_available()
    return {k: v.pin_memory() if on_gpu else v for k, v in arrays.items()}


def step_flops(model: str, batch: int, cached: bool) -> int:
    """Operations of a step, matrix products alone: a backward pass takes two forward passes'."""
    import timm

    from repa.encoders.vit import VITS

    row = VITS[ENCODER]
    total = 3 * forward_flops(model, [row.dim])
    if not cached:
        with torch.device("meta"):
            network = timm.create_model(row.network, img_size=224, num_classes=0)
        total += network_flops(network, 224)
    return batch * total


def precision_of(way: str, device: torch.device) -> Precision:
    """In which a way computes: of "ours bf16+compile", bf16."""
    return pick_precision(PRECISIONS[way.split()[1].split("+")[0]], device)


def row(name: str, taken: Measured, batch: int, flops: int, ceiling: float) -> dict[str, Any]:
    """A way's line of the table."""
    return {
        "way": name,
        "images_per_second": batch / taken.median,
        "seconds": taken.median,
        "first_step_seconds": taken.first,
        "peak_bytes": taken.peak,
        "utilization": flops / taken.median / ceiling,
    }


def report(rows: list[dict[str, Any]], ceilings: dict[Precision, float]) -> None:
    for precision, operations in ceilings.items():
        print(f"{precision}: at most {operations / 1e12:.2f} TFLOP/s")
    print(f"{'':22}{'images/s':>9}{'ratio':>7}{'utilization':>13}{'peak':>9}{'first step':>12}")
    for line in rows:
        print(
            f"{line['way']:22}{line['images_per_second']:9.2f}{line['ratio']:7.2f}"
            f"{line['utilization']:13.1%}{line['peak_bytes'] / 2**30:5.1f} GiB"
            f"{line['first_step_seconds']:10.1f} s"
        )


if __name__ == "__main__":
    main()
