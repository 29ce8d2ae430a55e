"""`repa probe`: linear classifiers on hidden states, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from accelerate import PartialState
from torch import Tensor

from repa.analysis.inputs import (
    Images,
    check_classes,
    encoder_states,
    open_encoders,
    split_images,
)
from repa.analysis.linear_probe import linear_probes
from repa.analysis.results import Results, Row
from repa.analysis.subjects import encoder_names, find_checkpoints, open_subjects
from repa.analysis.targets import pixel_features
from repa.config import ProbeOptions
from repa.data import open_dataset
from repa.devices import pick_precision
from repa.processes import gather_rows, on_main, start_processes


def run_probe(options: ProbeOptions) -> dict[str, Any] | None:
    """Classifies by hidden states of each checkpoint, time and block; by encoders, and by pixels.

    Writes `probe.json` and `probe.csv`. Started on several processes, each computes a share of the
    hidden states, and the first one trains the classifiers.

    Returns:
        What the JSON file holds; None on other processes than the first.

    Raises:
        RepaError: if a dataset, checkpoint or encoder cannot be had, or a result not be written.
    """
    processes = start_processes(options.device)
    train, test = split_images(
        open_dataset(options.data_dir),
        None if options.val_dir is None else open_dataset(options.val_dir),
        options.train_images,
        options.val_images,
    )
    check_classes(train, test)
    checkpoints = find_checkpoints(options, processes)
    names = encoder_names(options, checkpoints)
    settings = _settings(options, train, test, processes)
    results = Results(options.output_dir, "probe", settings, options.overwrite)
    processes.wait_for_everyone()  # all have read what is there before anyone adds to it
    labels = (train.labels, test.labels)

    def classify(rows: Sequence[Row], train_states: Tensor, test_states: Tensor) -> None:
        """Adds a row of results for each layer of (L, N, D) and (L, M, D)."""

        def add() -> None:
            probes = linear_probes(
                train_states, labels[0], test_states, labels[1], options.seed, processes.device
            )
            results.add(row | asdict(probe) for row, probe in zip(rows, probes, strict=True))

        on_main(processes, add)

    pixels: Row = {"subject": "pixels", "name": "pixels"}
    if pixels not in results:
        shares = (pixel_features(i.dataset, i.share(processes)) for i in (train, test))
        classify([pixels], *(gather_rows(own)[None] for own in shares))
    lacking = [n for n in names if {"subject": "encoder", "name": n} not in results]
    datasets = (train.dataset, test.dataset)
    encoders = open_encoders(lacking, datasets, options.encoder_weights, processes)
    for name, encoder in encoders.items():
        states = (
            encoder_states(encoder, images, processes, options.batch_size)[None]
            for images in (train, test)
        )
        classify([{"subject": "encoder", "name": name}], *states)
    for subject in open_subjects(checkpoints, options, processes):
        for time in subject.progress(options.times):
            rows = [row for row in subject.rows(time) if row not in results]
            if rows:
                depths = [row["depth"] for row in rows]
                states = (subject.states(images, depths, time) for images in (train, test))
                classify(rows, *states)
    return results.content() if processes.is_main_process else None


def _settings(
    options: ProbeOptions, train: Images, test: Images, processes: PartialState
) -> dict[str, Any]:
    return {
        "train": train.record(),
        "test": test.record(),
        "classes": train.dataset.num_classes,
        "seed": options.seed,
        "precision": pick_precision(options.mixed_precision, processes.device),
    }
