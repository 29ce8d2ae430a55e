"""Reading training samples at random: the prepared dataset against one file for each image.

    python benchmarks/reading.py [--against RELEASE] [--samples 5120] [--workers 2] [--json OUT]

ImageNet-shaped samples (256 px image, 8x32x32 latents, label) are written both ways: as
`repa prepare` does, and as the published release's preprocessing does (a PNG and an .npy each).
Each reader takes them in random order in batches of 64 with the same number of worker processes,
files cached by the system; readers alternate, medians are compared. `--against` names a checkout
of the release, whose own dataset class then reads its layout; else ours does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from timing import medians
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from repa.data import open_dataset
from repa.data.prepare import prepare
from repa.data.released import ReleasedSource
from repa.data.share import Work
from repa.data.visits import ProcessBatches, Visits, visit_loader

BATCH = 64
KEYS = {"image", "label", "latent"}


def photo_like(random: np.random.Generator) -> Image.Image:
    """Noise of several scales: as a PNG of 256 px about as large as a photograph's (110 kB)."""
    layers = []
    for size, weight in ((8, 100), (32, 60), (256, 14)):
        noise = Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8))
        smooth = noise.resize((256, 256), Image.Resampling.BICUBIC)
        layers.append(weight / 100 * (np.asarray(smooth, np.float32) - 128))
    image = Image.fromarray((128 + sum(layers)).clip(0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(0.6))


def write_release_layout(folder: Path, count: int) -> int:
    """Writes the layout; returns the mean size of a PNG in bytes."""
    random = np.random.default_rng(0)
    labels, size = [], 0
    for i in tqdm(range(count), "write", unit="image"):
        shard = f"{i // 1000:05d}"
        image = folder / "images" / shard / f"img{i:08d}.png"
        latent = folder / "vae-sd" / shard / f"img-mean-std-{i:08d}.npy"
        for path in (image, latent):
            path.parent.mkdir(parents=True, exist_ok=True)
        photo_like(random).save(image, compress_level=1)
        size += image.stat().st_size
        np.save(latent, random.standard_normal((8, 32, 32), dtype=np.float32))
        labels.append([f"{shard}/{latent.name}", i % 1000])
    (folder / "vae-sd" / "dataset.json").write_text(json.dumps({"labels": labels}))
    return size // count


def release_reader(
    checkout: Path, layout: Path, workers: int, batches: list[list[int]]
) -> Iterable:
    spec = importlib.util.spec_from_file_location("release_dataset", checkout / "dataset.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dataset: Dataset = module.CustomDataset(str(layout))
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="a checkout of the release")
    parser.add_argument("--samples", type=int, default=5120)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write the samples, and leave them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        layout, dest = folder / "release", folder / "prepared"
        png_bytes = 0
        if not layout.exists():
            png_bytes = write_release_layout(layout, options.samples)
        source = ReleasedSource(layout)
        record = source.autoencoder("sd-vae-ft-mse")
        prepare(source, dest, 256, record, {}, work=Work(num_workers=options.workers))
        result = compare(layout, dest, options)
    result["png_bytes"] = png_bytes
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def compare(layout: Path, dest: Path, options: argparse.Namespace) -> dict[str, float]:
    order = np.random.default_rng(0).permutation(options.samples).tolist()
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]

    def visits(folder: Path) -> Iterable:
        every = ProcessBatches(BATCH, 0, len(batches), 0, 1)
        return visit_loader(Visits(open_dataset(folder), 0, KEYS), every, options.workers)

    readers = {"prepared": lambda: visits(dest), "layout": lambda: visits(layout)}
    if options.against:
        readers["release"] = lambda: release_reader(
            options.against, layout, options.workers, batches
        )

    def read(name: str) -> None:
        seen = 0
        for batch in readers[name]():
            values = batch.values() if isinstance(batch, dict) else batch
            seen += len(next(iter(values)))
        assert seen == options.samples // BATCH * BATCH

    seconds = medians({name: lambda name=name: read(name) for name in readers}, options.rounds)
    rates = {name: options.samples / value for name, value in seconds.items()}
    slowest = "release" if options.against else "layout"
    return {
        **{f"{name}_samples_per_second": round(rate) for name, rate in rates.items()},
        "ratio": round(rates["prepared"] / rates[slowest], 2),
        "against": slowest,
        "workers": options.workers,
        "samples": options.samples,
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
