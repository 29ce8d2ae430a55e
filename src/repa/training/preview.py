"""Preview grids: what the averaged weights draw, seen from step to step."""

from __future__ import annotations

from pathlib import Path

import torch

from repa.autoencoders import Autoencoder
from repa.config import SamplerOptions, TrainOptions
from repa.data import ImageDataset
from repa.devices import pick_precision
from repa.diffusion import Objective
from repa.models import Backbone
from repa.sampling import generate_images, save_grid
from repa.training.texts import Texts, conditions_of

IMAGES = 32


class Previews:
    """Draws the same noise and classes at every call."""

    def __init__(
        self,
        options: TrainOptions,
        dataset: ImageDataset,
        autoencoder: Autoencoder,
        objective: Objective,
        texts: Texts | None,
        device: torch.device,
        folder: Path,
    ):
        self.autoencoder = autoencoder
        self.seed = options.seed
        self.objective = objective
        self.precision = pick_precision(options.mixed_precision, device)
        chosen = range(0, len(dataset), max(1, len(dataset) // IMAGES))[:IMAGES]
        self.count = len(chosen)
        self.conditions = conditions_of(dataset, chosen, texts)
        self.folder = folder

    def draw(self, model: Backbone, step: int) -> None:
        """Saves STEP.png."""
        batches = generate_images(
            model,
            self.autoencoder,
            self.conditions,
            range(self.count),
            SamplerOptions(num_steps=50),
            self.seed,
            self.objective,
            batch_size=IMAGES,
            precision=self.precision,
        )
        self.folder.mkdir(exist_ok=True)
        save_grid(torch.cat(list(batches)), self.folder / f"{step:07d}.png")
