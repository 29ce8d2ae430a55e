"""`repa align`: how much hidden states resemble encoders, and encoders each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from repa.analysis.inputs import (
    Images,
    TargetEncoder,
    encoder_states,
    grid_sizes,
    open_encoders,
)
from repa.analysis.results import Results, Row
from repa.analysis.similarity import Representation, compare
from repa.analysis.spatial import spatial_structure
from repa.analysis.subjects import encoder_names, find_checkpoints, open_subjects
from repa.analysis.targets import encoder_tokens
from repa.config import AlignOptions
from repa.data import open_dataset
from repa.devices import pick_precision
from repa.errors import RepaError
from repa.processes import gather_rows, on_main, start_processes


def run_align(options: AlignOptions) -> dict[str, Any] | None:
    """Compares hidden states of each checkpoint, time and block with each encoder.

    Also the encoders with each other, and of each encoder how its tokens are arranged in space.
    Writes `align.json` and `align.csv`. Started on several processes, each computes a share of the
    hidden states and tokens, and the first one compares.

    Returns:
        What the JSON file holds; None on other processes than the first.

    Raises:
        RepaError: if the dataset, a checkpoint or an encoder cannot be had, there are too few
            images, or a result cannot be written.
    """
    processes = start_processes(options.device)
    dataset = open_dataset(options.data_dir)
    images = Images.pick(dataset, range(len(dataset)), options.num_images)
    if len(images) <= max(3, options.neighbors):
        raise RepaError(f"{len(images)} images are too few for {options.neighbors} neighbors")
    checkpoints = find_checkpoints(options, processes)
    names = encoder_names(options, checkpoints)
    if not names:
        raise RepaError("no checkpoint was aligned to an encoder: name some with --enc-type")
    settings = _settings(options, images, processes)
    results = Results(options.output_dir, "align", settings, options.overwrite)
    processes.wait_for_everyone()  # all have read what is there before anyone adds to it
    encoders = open_encoders(names, [dataset], options.encoder_weights, processes)
    targets = _Targets(encoders, images, options, processes)

    _add_spatial(encoders, images, options, processes, results)
    pairs: list[Row] = [
        {"subject": "encoder", "name": one, "encoder": other}
        for one, other in combinations(names, 2)
    ]
    if pairs := [row for row in pairs if row not in results]:
        common = min(grid_sizes(encoders, dataset).values())
        known = targets.at(common)
        on_main(
            processes,
            lambda: results.add(
                row | compare(known[row["name"]], known[row["encoder"]]) for row in pairs
            ),
        )
    for subject in open_subjects(checkpoints, options, processes):
        for time in subject.progress(options.times):
            rows = [row | {"encoder": name} for row in subject.rows(time) for name in names]
            rows = [row for row in rows if row not in results]
            if rows:
                depths = list(dict.fromkeys(row["depth"] for row in rows))
                states = subject.states(images, depths, time, options.pooling)
                known = targets.at(subject.model.grid_size)
                on_main(processes, partial(_add, results, rows, depths, states, known))
    return results.content() if processes.is_main_process else None


class _Targets:
    """The encoders' pooled tokens of all images, computed when they are first asked for.

    Args:
        encoders: by name.
        images: that are compared.
        options: pooling, k and batch size.
        processes: this process and the others, which compute shares.
    """

    def __init__(
        self,
        encoders: Mapping[str, TargetEncoder],
        images: Images,
        options: AlignOptions,
        processes: PartialState,
    ):
        self.encoders = encoders
        self.images = images
        self.options = options
        self.processes = processes
        self._found: dict[int | None, dict[str, Representation]] = {}

    def at(self, grid_size: int) -> dict[str, Representation]:
        """By name, as seen by a backbone of so many tokens a side; nothing on other processes
        than the first.

        A mean does not depend on the grid: it is taken of the encoder's own tokens.
        """
        grid = None if self.options.pooling == "mean" else grid_size
        if grid not in self._found:
            device = self.processes.device
            self._found[grid] = {}
            for name, encoder in self.encoders.items():
                states = encoder_states(
                    encoder, self.images, self.processes, self.options.batch_size, grid,
                    self.options.pooling,
                )  # fmt: skip
                if self.processes.is_main_process:
                    own = Representation(states.to(device), self.options.neighbors)
                    self._found[grid][name] = own
        return self._found[grid]


def _add(
    results: Results,
    rows: Sequence[Row],
    depths: Sequence[int],
    states: Tensor,
    targets: Mapping[str, Representation],
) -> None:
    """Compares states (L, N, D) after these depths with what the rows name."""
    found = []
    for depth, layer in zip(depths, states, strict=True):
        some = next(iter(targets.values()))
        own = Representation(layer.to(some.device), some.k)
        found += [
            row | compare(own, targets[row["encoder"]]) for row in rows if row["depth"] == depth
        ]
    results.add(found)


def _add_spatial(
    encoders: Mapping[str, TargetEncoder],
    images: Images,
    options: AlignOptions,
    processes: PartialState,
    results: Results,
) -> None:
    """How each encoder's tokens are arranged in space, the mean over all images."""
    known = {row["encoder"] for row in results.spatial}
    for name in [name for name in encoders if name not in known]:
        own = images.share(processes)
        batches = encoder_tokens(images.dataset, own, encoders[name], options.batch_size)
        found = [spatial_structure(tokens) for _, tokens in batches]  # {metric: (n,)} each
        means = {
            metric: gather_rows(torch.cat([part[metric] for part in found]).cpu()).mean().item()
            for metric in found[0]
        }
        on_main(processes, partial(results.add_spatial, {"encoder": name} | means))


def _settings(options: AlignOptions, images: Images, processes: PartialState) -> dict[str, Any]:
    return {
        "images": images.record(),
        "neighbors": options.neighbors,
        "pooling": options.pooling,
        "precision": pick_precision(options.mixed_precision, processes.device),
    }
