"""Three choices the code makes on a CPU, each against the plain way, alternating in one run.

    python benchmarks/cpu_choices.py [--threads 2] [--json OUT]

- encoder: EfficientNet-Lite0 on 64 images of 128 px, channels-last in slices (ours) against the
  whole batch at once.
- allocator: the encoder on these images in a process that keeps freed memory (ours), and in one
  that leaves the allocator as it is.
- attention: a training step of SiT-Ti/4 (64 tokens, batch 32) in bf16 with explicit attention
  (ours, for short sequences in half precision) against PyTorch's fused kernel.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import medians

from repa.devices import autocast, in_slices
from repa.diffusion import FlowMatching
from repa.encoders import create_encoder
from repa.encoders.efficientnet import CPU_SLICE
from repa.models import create_model, layers
from repa.training import Batch, TrainingModule

CPU = torch.device("cpu")


def ratio(ours: Callable[[], object], plain: Callable[[], object], rounds: int) -> float:
    """Median time of the plain way over the median time of ours."""
    seconds = medians({"ours": ours, "plain": plain}, rounds)
    return seconds["plain"] / seconds["ours"]


def encoder_ratio(rounds: int) -> float:
    encoder = create_encoder("efficientnet-lite0", 32, grid_size=8)
    plain = create_encoder("efficientnet-lite0", 32, grid_size=8)
    plain.network.to(memory_format=torch.contiguous_format)
    pixels = torch.randn(64, 3, 128, 128)
    with torch.inference_mode():
        return ratio(
            lambda: in_slices(encoder._stride_16_maps, pixels, CPU_SLICE),
            lambda: plain._stride_16_maps(pixels),
            rounds,
        )


CHILD = """
import statistics, sys, time
import torch
from repa.encoders import create_encoder
from repa.memory import keep_freed_memory

if sys.argv[1] == "ours":
    keep_freed_memory()
torch.set_num_threads(int(sys.argv[2]))
encoder = create_encoder("efficientnet-lite0", 32, grid_size=8)
images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8)
times = []
for _ in range(8):
    started = time.perf_counter()
    encoder(images)
    times.append(time.perf_counter() - started)
print(statistics.median(times[1:]))
"""


def allocator_ratio(rounds: int) -> float:
    """In new processes: glibc's thresholds grow with use, so they cannot be set back."""

    def seconds(way: str) -> float:
        command = [sys.executable, "-c", CHILD, way, str(torch.get_num_threads())]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    pairs = [(seconds("plain"), seconds("ours")) for _ in range(max(1, rounds // 3))]
    plain, ours = map(statistics.median, zip(*pairs, strict=True))
    return plain / ours


def attention_ratio(rounds: int) -> float:
    batch = Batch(
        x=torch.randn(32, 3, 32, 32),
        y=torch.zeros(32, dtype=torch.int64),
        noise=torch.randn(32, 3, 32, 32),
        time_uniform=torch.rand(32),
        drop_uniform=torch.rand(32),
    )

    model = create_model("SiT-Ti/4", input_size=32, in_channels=3, num_classes=9)
    module = TrainingModule(model, FlowMatching())

    def step(short: int) -> None:
        layers.SHORT = short
        with autocast("bf16", CPU):
            loss = module(batch)["loss"]
        loss.backward()

    return ratio(partial(step, layers.SHORT), partial(step, 0), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "encoder": encoder_ratio(arguments.rounds),
        "allocator": allocator_ratio(arguments.rounds),
        "attention": attention_ratio(arguments.rounds),
        "threads": arguments.threads,
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
