"""Preparing a dataset: images a second, and the autoencoder against one image at a time.

    python benchmarks/preparing.py [--source cifar10-train.zip] [--threads 2] [--json OUT]

- prepare: the whole command on a source at 32 px as pixels, start-up not counted.
- encode: an autoencoder of SD-VAE's architecture, an eighth as wide, with random weights: a batch
  through ours against one image at a time through diffusers, as the published release does it.
  Alternating in one run, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from timing import medians

from repa.autoencoders import Pixels, create_autoencoder, from_uint8
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import open_source
from repa.memory import keep_freed_memory


def prepare_rate(source: str, workers: int) -> dict[str, float]:
    opened = open_source(source)
    work = Work(num_workers=workers, batch_size=64)
    with tempfile.TemporaryDirectory() as dest:
        started = time.perf_counter()
        manifest = prepare(opened, Path(dest), 32, Pixels(), {}, work=work)
        seconds = time.perf_counter() - started
    return {
        "prepare_images": manifest.num_images,
        "prepare_images_per_second": round(manifest.num_images / seconds),
    }


def encode_rates(side: int, count: int, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        AutoencoderKL(
            block_out_channels=(16, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            norm_num_groups=16,
            latent_channels=4,
        ).save_pretrained(folder)
        ours = create_autoencoder(folder)
        plain = AutoencoderKL.from_pretrained(folder)
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)

    @torch.no_grad()
    def one_at_a_time() -> None:
        for image in images:
            posterior = plain.encode(from_uint8(image[None])).latent_dist
            torch.cat([posterior.mean, posterior.std], dim=1)

    seconds = medians({"ours": lambda: ours.encode(images), "one": one_at_a_time}, rounds)
    return {
        f"encode_{side}px_images_per_second": round(count / seconds["ours"], 1),
        f"encode_{side}px_one_at_a_time": round(count / seconds["one"], 1),
        f"encode_{side}px_ratio": round(seconds["one"] / seconds["ours"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="twemoji", help="what `repa prepare --source` takes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command does
    result: dict[str, float] = prepare_rate(options.source, options.workers)
    for side, count in ((64, 64), (256, 16)):
        result |= encode_rates(side, count, options.rounds)
    result |= {"threads": options.threads, "workers": options.workers, "cores": os.cpu_count() or 0}
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
