"""The images that `repa probe` and `repa align` look at, and encoders of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from repa.analysis.hidden_states import Pooling
from repa.analysis.targets import target_states
from repa.data import ImageDataset, PreparedDataset
from repa.data.share import spread
from repa.encoders import Encoder, create_encoders
from repa.errors import RepaError
from repa.processes import gather_rows, share

HELD_OUT = 5  # without images to test with, every fifth tests
TargetEncoder = str | Encoder  # the name of cached tokens, or what computes them


@dataclass(frozen=True)
class Images:
    """Some images of a dataset, in the order of `indices`."""

    dataset: ImageDataset
    indices: Sequence[int]

    @classmethod
    def pick(cls, dataset: ImageDataset, among: Sequence[int], wanted: int) -> Images:
        """At most `wanted` images, evenly spread among those of some indices."""
        return cls(dataset, [among[i] for i in spread(len(among), wanted)])

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> Tensor:
        """(n,), int64."""
        return torch.from_numpy(self.dataset.labels[list(self.indices)])

    def share(self, processes: PartialState) -> Sequence[int]:
        """The indices that this process looks at.

        Raises:
            RepaError: if there are more processes than images.
        """
        if len(self) < processes.num_processes:
            raise RepaError(
                f"{len(self)} images are too few for {processes.num_processes} processes"
            )
        own = share(len(self), processes.process_index, processes.num_processes)
        return self.indices[own.start : own.stop]

    def record(self) -> str:
        """Which images these are, for the settings of a result."""
        manifest = self.dataset.manifest
        source, autoencoder = manifest.source, manifest.autoencoder
        return (
            f"{len(self)} of {len(self.dataset)} images of {source.name} "
            f"({source.fingerprint[:16]}), {manifest.resolution} px, {autoencoder.name}"
        )


def split_images(
    dataset: ImageDataset, other: ImageDataset | None, train_images: int, test_images: int
) -> tuple[Images, Images]:
    """Images to train classifiers with, and images to look at.

    Those come from `other`; without it, from every fifth image of the one dataset.

    Args:
        dataset: trains.
        other: is looked at, if there is one.
        train_images, test_images: how many at most.
    """
    every = range(len(dataset))
    if other is not None:
        test = Images.pick(other, range(len(other)), test_images)
        return Images.pick(dataset, every, train_images), test
    test = Images.pick(dataset, every[HELD_OUT - 1 :: HELD_OUT], test_images)
    rest = [i for i in every if i % HELD_OUT != HELD_OUT - 1]
    return Images.pick(dataset, rest, train_images), test


def check_classes(train: Images, test: Images) -> None:
    """Whether a classifier can learn from the one and be tested on the other.

    Raises:
        RepaError: if all images are of one class, or the datasets differ in their classes.
    """
    (name, count), (other, others) = (
        (images.dataset.manifest.source.name, images.dataset.num_classes)
        for images in (train, test)
    )
    if count < 2:
        raise RepaError(f"the images of {name} are all of one class: there is nothing to classify")
    if others != count:
        raise RepaError(f"{name} has {count} classes, {other} (--val-dir) {others}")
    classes, theirs = (images.dataset.manifest.classes for images in (train, test))
    # Lists without a common name may be two ways to call the same classes.
    if classes != theirs and not set(classes).isdisjoint(theirs):
        label = next(i for i in range(count) if classes[i] != theirs[i])
        raise RepaError(
            f"{name} and {other} (--val-dir) differ in their classes: label {label} is "
            f"{classes[label]!r} in one, {theirs[label]!r} in the other"
        )


def open_encoders(
    names: Sequence[str],
    datasets: Sequence[ImageDataset],
    weights: Path,
    processes: PartialState,
) -> dict[str, TargetEncoder]:
    """Encoders for images of all these datasets: their cached tokens where all have them.

    Raises:
        RepaError: if the weights of another cannot be had.
    """
    cached = {
        name
        for name in names
        if all(isinstance(d, PreparedDataset) and name in d.manifest.features for d in datasets)
    }
    computed = [name for name in names if name not in cached]
    resolution = datasets[0].manifest.resolution
    try:
        with processes.local_main_process_first():  # the others wait while one downloads them
            encoders = create_encoders(computed, resolution, weights=weights)
    except RepaError as error:
        raise RepaError(f"{error} (--enc-type chooses others, or none)") from None
    device = processes.device
    return {name: name if name in cached else encoders[name].to(device) for name in names}


def grid_sizes(encoders: Mapping[str, TargetEncoder], dataset: ImageDataset) -> dict[str, int]:
    """Tokens along one side that each encoder gives."""
    cached = dataset.manifest.features
    return {
        name: cached[encoder].grid_size if isinstance(encoder, str) else encoder.grid_size
        for name, encoder in encoders.items()
    }


def encoder_states(
    encoder: TargetEncoder,
    images: Images,
    processes: PartialState,
    batch_size: int,
    grid_size: int | None = None,
    pooling: Pooling = "mean",
) -> Tensor:
    """An encoder's pooled tokens (N, D) of the images, on all processes; each computes a share."""
    own = images.share(processes)
    return gather_rows(target_states(images.dataset, own, encoder, grid_size, batch_size, pooling))
