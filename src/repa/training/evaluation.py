"""Evaluation during training: samples of the averaged weights against reference images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from repa.autoencoders import Autoencoder
from repa.config import SamplerOptions, TrainOptions
from repa.data import ImageDataset
from repa.data.share import spread
from repa.devices import pick_precision
from repa.diffusion import Objective
from repa.errors import RepaError
from repa.evaluation.class_accuracy import check_labels
from repa.evaluation.compare import compare
from repa.evaluation.extract import extract, gather
from repa.evaluation.networks import create_network
from repa.evaluation.reference import load_reference
from repa.evaluation.statistics import Reference
from repa.files import append_json
from repa.models import Backbone
from repa.processes import share
from repa.sampling import generate_images
from repa.sampling.generate import pick_mode
from repa.training.log import keep_until
from repa.training.texts import Texts, conditions_of

REFERENCE_IMAGES = 10_000  # of the dataset, where no other reference is named
NEIGHBORS = 3


class Evaluations:
    """Measures the same noise and classes at every call, on all processes together.

    Classes follow the dataset's. Nothing is drawn from the random streams of training.

    Args:
        options: of the run.
        dataset: its images.
        autoencoder: decodes the samples.
        objective: that the model is trained for.
        texts: of a model that takes texts.
        accelerator: this process and the others; owns the trackers.
        run: folder of `evaluations.jsonl`; lines of steps after `step` are dropped, a killed run
            left them.
        step: the last one that was measured.

    Raises:
        RepaError: if the network or the reference cannot be had, or there are too few images.
    """

    def __init__(
        self,
        options: TrainOptions,
        dataset: ImageDataset,
        autoencoder: Autoencoder,
        objective: Objective,
        texts: Texts | None,
        accelerator: Accelerator,
        run: Path,
        step: int,
    ):
        if min(options.eval_samples, len(dataset)) <= NEIGHBORS:
            raise RepaError(f"--eval-every: more than {NEIGHBORS} images are needed")
        self.every = options.eval_every or 0
        self.autoencoder = autoencoder
        self.accelerator = accelerator
        self.path = run / "evaluations.jsonl"
        self.seed = options.seed
        self.batch_size = options.eval_batch_size
        self.objective = objective
        self.precision = pick_precision(options.mixed_precision, accelerator.device)
        self.sampler = SamplerOptions(
            mode=options.eval_mode,
            num_steps=options.eval_num_steps,
            cfg_scale=options.eval_cfg_scale,
        )
        pick_mode(objective, self.sampler, "--eval-")  # before the first step
        count = options.eval_samples
        rows = np.resize(spread(len(dataset), count), count).tolist()
        self.labels = dataset.labels[rows]
        self.conditions = conditions_of(dataset, rows, texts)
        device = accelerator.device
        with accelerator.local_main_process_first():  # the others wait while one downloads it
            network = create_network(options.eval_network, options.eval_network_weights)
        self.network = network.to(device)
        check_labels("--data-dir", torch.from_numpy(self.labels), network)
        if options.eval_reference is None:
            self.reference = self._dataset_reference(dataset)
        else:
            self.reference = load_reference(
                options.eval_reference, self.network, device, self.batch_size, NEIGHBORS
            )
        if accelerator.is_main_process:
            keep_until(self.path, step)

    def due(self, step: int) -> bool:
        """Whether this step is one to evaluate."""
        return step % self.every == 0

    def measure(self, model: Backbone, step: int) -> None:
        """Writes the metrics of the model's samples to the file and the trackers.

        Those that are not finite, as of a model that has diverged, are left out.
        """
        batches = generate_images(
            model,
            self.autoencoder,
            self.conditions,
            self._share(len(self.labels)),
            self.sampler,
            self.seed,
            self.objective,
            self.batch_size,
            self.precision,
        )
        features = gather(extract(self.network, batches, self.accelerator.device))
        if not self.accelerator.is_main_process:
            return
        metrics = compare(
            self.reference,
            features,
            self.network.metrics,
            NEIGHBORS,
            self.seed,
            self.accelerator.device,
            torch.from_numpy(self.labels),
        )
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        record = {"step": step, "network": self.network.name, "samples": len(features), **metrics}
        append_json(self.path, record)
        self.accelerator.log({f"eval/{name}": value for name, value in metrics.items()}, step=step)

    def _dataset_reference(self, dataset: ImageDataset) -> Reference:
        chosen = spread(len(dataset), REFERENCE_IMAGES)
        own = [chosen[i] for i in self._share(len(chosen))]
        batches = (
            torch.from_numpy(dataset.images(own[start : start + self.batch_size]))
            for start in range(0, len(own), self.batch_size)
        )
        device = self.accelerator.device
        return Reference.fit(gather(extract(self.network, batches, device)), device)

    def _share(self, count: int) -> range:
        return share(count, self.accelerator.process_index, self.accelerator.num_processes)
