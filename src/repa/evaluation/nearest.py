"""Whether samples are copies of reference images: the nearest ones, counted and pictured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from repa.data.share import spread
from repa.errors import RepaError
from repa.evaluation.blocks import Rows, squared_distances
from repa.evaluation.images import ImageSet
from repa.evaluation.npz import IMAGES, npz_names
from repa.evaluation.targets import NEAREST_MARK, writing

NEIGHBORS = 3  # reference images beside each sample
MEMORIZED = 1 / 3  # of the distance to the second nearest reference image
COMPARED = 10_000  # reference images, at most, whose own nearest ones are looked for
SAME = 1e-5  # of the features' lengths: at such distances, images differ by rounding only
PICTURED, COLUMNS = 16, 2  # samples in the picture, and side by side
GAP = 6  # pixels between them; within a group there is one


@dataclass(frozen=True)
class Nearest:
    """The reference images nearest to each sample.

    Attributes:
        distances: (M, k) float64, ascending along a row; 0 between images that are the same.
        indices: (M, k) int64, of the reference images.
        own_distance: median over reference images of the distance to their nearest other one.
    """

    distances: Tensor
    indices: Tensor
    own_distance: float

    @property
    def memorized(self) -> float:
        """The share of samples that are nearer to one reference image than 1/3 of the distance to
        the second nearest (Yoon et al., 2023; Gu et al., 2023; there of pixels).

        A sample without distance to a reference image is one of them, also where the reference has
        that image twice.
        """
        first, second = self.distances[:, 0], self.distances[:, 1]
        return ((first < MEMORIZED * second) | (first == 0)).double().mean().item()

    @property
    def nearest_distance(self) -> float | None:
        """The median distance of samples to their nearest reference image, over that of reference
        images to theirs: 1 if samples are as near to these as these to each other, far below 1 if
        they are copies. None if most reference images are there twice.
        """
        if self.own_distance == 0:
            return None
        return self.distances[:, 0].median().item() / self.own_distance


def find_nearest(real: Tensor, fake: Tensor, device: torch.device | str = "cpu") -> Nearest:
    """Compares samples with all reference images, block by block, in float64.

    Of a large reference, 10,000 images, evenly spread, stand for all in its own median.

    Args:
        real: features of the reference (N, D), floating, N >= 2.
        fake: features of the samples (M, D), floating, M >= 1.
        device: where to compute.

    Raises:
        ValueError: if a set is too small or the dimensions differ.
    """
    if real.shape[1] != fake.shape[1] or len(real) < 2 or len(fake) < 1:
        raise ValueError(f"sets of {tuple(real.shape)} and {tuple(fake.shape)}")
    distances, indices = _nearest(fake, real, min(NEIGHBORS, len(real)), device)
    chosen = torch.tensor(spread(len(real), COMPARED))
    own, _ = _nearest(real[chosen], real, 1, device, chosen)
    return Nearest(distances, indices, own.median().item())


def check_images(path: Path) -> None:
    """Finds out before the work that a reference has no images to show.

    Raises:
        RepaError: if it holds statistics only.
    """
    if path.suffix == ".npz" and IMAGES not in npz_names(path):
        raise RepaError(
            f"--nearest shows images of the reference, and {path} holds none: give those that "
            "its statistics were made of"
        )


def save_picture(path: Path, nearest: Nearest, samples: ImageSet, reference: ImageSet) -> None:
    """A PNG of the samples that are nearest to reference images, each left of its three.

    Of 16 samples, row by row, the nearest comes first. Images are of the samples' size.

    Args:
        path: ends in .png.
        nearest: of these sets.
        samples: of which `nearest` has the rows.
        reference: of which `nearest` has the indices.

    Raises:
        RepaError: if images cannot be read, or the picture cannot be written.
    """
    rows = nearest.distances[:, 0].argsort(stable=True)[:PICTURED]
    theirs = nearest.indices[rows]
    neighbors = _pictures(reference, theirs.flatten().tolist(), samples.size)
    k, (height, width) = theirs.shape[1], samples.size
    across, down = (k + 1) * (width + 1) - 1 + GAP, height + GAP
    lines = -(-len(rows) // COLUMNS)
    sheet = Image.new("RGB", (min(COLUMNS, len(rows)) * across - GAP, lines * down - GAP), "white")
    for i, sample in enumerate(_pictures(samples, rows.tolist(), samples.size)):
        left, top = i % COLUMNS * across, i // COLUMNS * down
        for place, picture in enumerate([sample, *neighbors[i * k : (i + 1) * k]]):
            sheet.paste(picture, (left + place * (width + 1), top))
    mark = PngImagePlugin.PngInfo()
    mark.add_text(*NEAREST_MARK)
    with writing("--nearest", path) as file:
        sheet.save(file, "PNG", pnginfo=mark)


def _nearest(
    queries: Tensor,
    references: Tensor,
    k: int,
    device: torch.device | str,
    places: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Distances and indices (n, k) of the nearest references, the nearest first, on the CPU.

    Args:
        queries: (n, D).
        references: (N, D).
        k: at most N, or N - 1 with `places`.
        device: where to compute.
        places: (n,) int64, of the queries among the references: these do not count.
    """
    center = references.mean(0, dtype=torch.float64)
    ours, theirs = Rows(queries, center, device), Rows(references, center, device)
    found = []
    for at_rows, rows in ours.blocks():
        best = torch.full((len(rows), k), torch.inf, dtype=torch.float64, device=device)
        indices = torch.zeros(len(rows), k, dtype=torch.int64, device=device)
        for at_columns, columns in theirs.blocks():
            squares = squared_distances(rows, columns)  # (n, m)
            if places is not None:
                own = places[at_rows].to(device) - at_columns.start
                inside = ((own >= 0) & (own < len(columns))).nonzero()[:, 0]
                squares[inside, own[inside]] = torch.inf
            new = squares.topk(min(k, len(columns)), largest=False)
            both = torch.cat([best, new.values], 1)
            best, chosen = both.topk(k, largest=False)
            indices = torch.cat([indices, new.indices + at_columns.start], 1).gather(1, chosen)
        # Again from the differences: what is left of small ones above is rounding.
        near = references[indices.cpu()].to(device).double()  # (n, k, D)
        distances = (rows[:, None] + center - near).norm(dim=2)
        distances[distances <= SAME * near.norm(dim=2)] = 0
        found.append((distances.cpu(), indices.cpu()))
    distances, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    distances, order = distances.sort(dim=1, stable=True)
    return distances, indices.gather(1, order)


def _pictures(images: ImageSet, indices: Sequence[int], size: tuple[int, int]) -> list[Image.Image]:
    """Some images in the order asked for, all of one height and width."""
    height, width = size
    found = []
    for image in images.pick(indices).permute(0, 2, 3, 1).numpy():
        picture = Image.fromarray(np.ascontiguousarray(image))
        same = picture.size == (width, height)
        found.append(picture if same else picture.resize((width, height), Image.Resampling.BICUBIC))
    return found
