"""Analysis during training: linear probing, and how much hidden states resemble encoders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator, PartialState
from torch import Tensor

from repa.analysis.inputs import check_classes, encoder_states, open_encoders, split_images
from repa.analysis.linear_probe import linear_probes
from repa.analysis.results import Row
from repa.analysis.similarity import Representation, compare
from repa.analysis.subjects import Subject
from repa.config import TrainOptions
from repa.data import ImageDataset, open_dataset
from repa.devices import pick_precision
from repa.diffusion import Objective
from repa.encoders import check_encoder_names
from repa.errors import RepaError
from repa.files import append_json
from repa.models import Backbone
from repa.training.log import keep_until

NEIGHBORS = 10  # of CKNNA, as published
METRICS = ("top1", "cknna", "cka", "mutual_knn")  # that trackers get
BATCH_SIZE = 64  # images at a time on each process


class Analyses:
    """Looks into the averaged weights, with the same images and noise at every call.

    Nothing is drawn from the random streams of training. All processes call it together.

    Args:
        options: of the run.
        dataset: its images.
        objective: that the model is trained for.
        accelerator: owns the trackers.
        run: folder of `probes.jsonl` and `alignments.jsonl`; lines of steps after `step` are
            dropped, a killed run left them.
        step: the last one that was measured.

    Raises:
        RepaError: if the images or encoders that the options name cannot be had.
    """

    def __init__(
        self,
        options: TrainOptions,
        dataset: ImageDataset,
        objective: Objective,
        accelerator: Accelerator,
        run: Path,
        step: int,
    ):
        self.options = options
        self.objective = objective
        self.accelerator = accelerator
        self.processes = PartialState()
        self.probes, self.alignments = run / "probes.jsonl", run / "alignments.jsonl"
        other = None if options.val_dir is None else open_dataset(options.val_dir)
        count = options.analysis_images
        self.train, self.images = split_images(dataset, other, count, count)
        if len(self.images) <= NEIGHBORS:
            raise RepaError(
                f"--probe-every, --align-every: {len(self.images)} images to look at are too few, "
                f"{NEIGHBORS + 1} are needed"
            )
        if options.probe_every:
            check_classes(self.train, self.images)
        aligned = bool(check_encoder_names(options.enc_type))
        self.row: Row = {
            "subject": "model",
            "name": options.exp_name,
            "run": str(run),
            "checkpoint": None,
            "model": options.model,
            "weights": "ema",
            "fingerprint": None,
            "encoder_depth": options.encoder_depth if aligned else None,
            "path_type": objective.path_type,
        }
        self.targets = self._open_targets() if options.align_every else {}
        if accelerator.is_main_process:
            for path in (self.probes, self.alignments):
                keep_until(path, step)

    def due(self, step: int) -> bool:
        """Whether there is anything to do at this step."""
        options = self.options
        every = (options.probe_every, options.align_every)
        return any(steps is not None and step % steps == 0 for steps in every)

    def measure(self, model: Backbone, step: int) -> None:
        """Does what is due at this step: writes rows to the files and numbers to the trackers.

        Rows with numbers that are not finite, as of a model that has diverged, are left out.
        """
        options = self.options
        probing = options.probe_every is not None and step % options.probe_every == 0
        aligning = options.align_every is not None and step % options.align_every == 0
        if not (probing or aligning):
            return
        subject = Subject(
            row=self.row | {"step": step},
            model=model,
            depths=range(1, model.depth + 1),
            objective=self.objective,
            processes=self.processes,
            precision=pick_precision(options.mixed_precision, model.device),
            batch_size=BATCH_SIZE,
        )
        for time in dict.fromkeys(options.analysis_times):
            rows = subject.rows(time)
            states = subject.states(self.images, subject.depths, time)  # (L, N, D)
            if probing:
                train_states = subject.states(self.train, subject.depths, time)
                if self.processes.is_main_process:
                    self._write(self.probes, step, self._probe(rows, train_states, states))
            if aligning and self.processes.is_main_process:
                self._write(self.alignments, step, self._compare(rows, states))

    def _probe(self, rows: Sequence[Row], train_states: Tensor, states: Tensor) -> list[Row]:
        probes = linear_probes(
            train_states, self.train.labels, states, self.images.labels,
            self.options.seed, self.processes.device,
        )  # fmt: skip
        return [row | asdict(probe) for row, probe in zip(rows, probes, strict=True)]

    def _compare(self, rows: Sequence[Row], states: Tensor) -> list[Row]:
        layers = (Representation(layer.to(self.processes.device), NEIGHBORS) for layer in states)
        return [
            row | {"encoder": name} | compare(layer, target)
            for row, layer in zip(rows, layers, strict=True)
            for name, target in self.targets.items()
        ]

    def _write(self, path: Path, step: int, rows: Sequence[Row]) -> None:
        rows = [row for row in rows if _is_finite(row)]
        for row in rows:
            append_json(path, row)
        numbers = {
            f"{path.stem}/{metric}{'_' + row['encoder'] if 'encoder' in row else ''}"
            f"_t{row['time']:g}_block{row['depth']:02d}": row[metric]
            for row in rows
            for metric in METRICS
            if metric in row
        }
        self.accelerator.log(numbers, step=step)

    def _open_targets(self) -> dict[str, Representation]:
        """The encoders' view of the images; the encoders themselves are not kept."""
        options = self.options
        wanted = options.enc_type if options.align_enc_type is None else options.align_enc_type
        names = check_encoder_names(wanted)
        if not names:
            raise RepaError("--align-every: name encoders to compare with as --align-enc-type")
        encoders = open_encoders(
            names, [self.images.dataset], options.encoder_weights, self.processes
        )
        device = self.processes.device
        states = {
            name: encoder_states(encoder, self.images, self.processes, BATCH_SIZE)
            for name, encoder in encoders.items()
        }
        return {name: Representation(s.to(device), NEIGHBORS) for name, s in states.items()}


def _is_finite(row: Row) -> bool:
    return all(math.isfinite(value) for value in row.values() if isinstance(value, float))
