"""Two choices the code makes on a CPU, each against the plain way, alternating in one run.

    python benchmarks/cpu_choices.py [--threads 2] [--json OUT]

- encoder: EfficientNet-Lite0 on 64 images of 128 px, channels-last in slices (ours) against the
  whole batch at once.
- attention: a training step of SiT-Ti/4 (64 tokens, batch 32, bf16 where the CPU has it) with
  explicit attention (the demo's choice) against PyTorch's fused kernel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from repa.devices import autocast, pick_precision
from repa.diffusion import Interpolant
from repa.encoders import create_encoder
from repa.encoders.efficientnet import in_slices
from repa.models import create_model
from repa.training import Batch, TrainingModule

CPU = torch.device("cpu")


def ratio(ours: Callable[[], object], plain: Callable[[], object], rounds: int) -> float:
    """Median time of the plain way over the median time of ours, alternating."""
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(rounds + 1):
        for name, run in (("ours", ours), ("plain", plain)):
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return statistics.median(times["plain"][1:]) / statistics.median(times["ours"][1:])


def encoder_ratio(rounds: int) -> float:
    encoder = create_encoder("efficientnet-lite0", 32, grid_size=8)
    plain = create_encoder("efficientnet-lite0", 32, grid_size=8)
    plain.network.to(memory_format=torch.contiguous_format)
    pixels = torch.randn(64, 3, 128, 128)
    with torch.inference_mode():
        return ratio(
            lambda: in_slices(encoder._stride_16_maps, pixels),
            lambda: plain._stride_16_maps(pixels),
            rounds,
        )


def attention_ratio(rounds: int) -> float:
    precision = pick_precision("auto", CPU)
    batch = Batch(
        x=torch.randn(32, 3, 32, 32),
        y=torch.zeros(32, dtype=torch.int64),
        noise=torch.randn(32, 3, 32, 32),
        time_uniform=torch.rand(32),
        drop_uniform=torch.rand(32),
    )

    def step(fused_attn: bool) -> Callable[[], None]:
        model = create_model(
            "SiT-Ti/4", input_size=32, in_channels=3, num_classes=9, fused_attn=fused_attn
        )
        module = TrainingModule(model, Interpolant())

        def run() -> None:
            with autocast(precision, CPU):
                loss = module(batch)["loss"]
            loss.backward()

        return run

    return ratio(step(fused_attn=False), step(fused_attn=True), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "encoder": encoder_ratio(arguments.rounds),
        "attention": attention_ratio(arguments.rounds),
        "threads": arguments.threads,
        "precision": pick_precision("auto", CPU),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
