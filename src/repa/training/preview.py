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
from repa.sampling.conditions import first_caption
from repa.training.texts import Texts, conditions_of

IMAGES = 32


class Previews:
    """Draws the same noise and classes or texts at every call."""

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
        self.texts = None
        if texts is not None and dataset.manifest.has_captions:
            self.texts = [first_caption(dataset, index) for index in chosen]
        self.folder = folder

    def draw(self, model: Backbone, step: int) -> None:
        """Saves STEP.png, and in prompts.txt a line for the text of each picture, if known."""
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
        if self.texts is not None:
            lines = (" ".join(text.split()) + "\n" for text in self.texts)
            (self.folder / "prompts.txt").write_text("".join(lines), encoding="utf-8")
        save_grid(torch.cat(list(batches)), self.folder / f"{step:07d}.png")
