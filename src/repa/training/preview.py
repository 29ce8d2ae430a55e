"""Preview grids: what the averaged weights draw, seen from step to step."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tqdm import tqdm

from repa.autoencoders import Autoencoder, create_autoencoder
from repa.config import SamplerOptions, TrainOptions
from repa.data import ImageDataset
from repa.devices import pick_precision
from repa.diffusion import Interpolant
from repa.errors import RepaError
from repa.models import SiT
from repa.sampling import generate_images, save_grid

IMAGES = 32


class Previews:
    """Draws the same noise and classes at every call.

    If the dataset's autoencoder cannot be had, says so once and draws nothing: training goes on.
    """

    def __init__(
        self, options: TrainOptions, dataset: ImageDataset, device: torch.device, folder: Path
    ):
        self.seed = options.seed
        self.interpolant = Interpolant(options.path_type)
        self.precision = pick_precision(options.mixed_precision, device)
        self.labels = dataset.labels[:: max(1, len(dataset) // IMAGES)][:IMAGES]
        self.folder = folder
        try:
            name = dataset.manifest.autoencoder.name
            self.autoencoder: Autoencoder | None = create_autoencoder(name, device)
        except RepaError as error:
            tqdm.write(f"warning: no previews: {error}", file=sys.stderr)
            self.autoencoder = None

    def draw(self, model: SiT, step: int) -> None:
        """Saves STEP.png."""
        if self.autoencoder is None:
            return
        batches = generate_images(
            model,
            self.autoencoder,
            self.labels,
            SamplerOptions(num_steps=50),
            self.seed,
            self.interpolant,
            batch_size=IMAGES,
            precision=self.precision,
        )
        self.folder.mkdir(exist_ok=True)
        save_grid(torch.cat(list(batches)), self.folder / f"{step:07d}.png")
