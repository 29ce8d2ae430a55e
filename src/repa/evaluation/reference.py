"""Loading a reference: statistics as they are, images through the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from repa.errors import RepaError
from repa.evaluation.extract import extract, gather
from repa.evaluation.images import ImageSet
from repa.evaluation.networks import Features, Network
from repa.evaluation.npz import IMAGES, npz_names
from repa.evaluation.statistics import Reference, read_reference
from repa.processes import share


def load_reference(
    path: Path,
    network: Network,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    neighbors: int = 3,
) -> Reference:
    """What samples are compared with; to be called by all processes.

    Statistics that a file holds are used as they are. Where it has images too, as ADM's reference
    files have, these give the features for precision, recall and kernel distances.

    Args:
        path: npz with statistics, images `arr_0` or both; or images as `ImageSet` takes them.
        network: on `device`.
        device: where the network is.
        batch_size: images at a time.
        neighbors: k of precision and recall: that many images are too few.

    Raises:
        RepaError: if it is none of these, does not fit the network, is damaged or too small.
    """
    stored = None
    if path.suffix == ".npz":
        stored = read_reference(path, network)
        if stored is not None and IMAGES not in npz_names(path):
            if stored.features is not None:
                check_count("reference", path, len(stored.features), neighbors)
            return stored
    images = ImageSet(path)
    check_count("reference", path, len(images), neighbors)
    features = features_of(images, network, device, batch_size, "reference")
    if stored is None:
        return replace(Reference.fit(features, device), image_size=images.size)
    return replace(stored, features=features.features, image_size=images.size)


def features_of(
    images: ImageSet,
    network: Network,
    device: torch.device | str,
    batch_size: int,
    title: str,
) -> Features:
    """Features of all images on each process, each having computed a share of them.

    Args:
        images: the same on all processes.
        network: on `device`.
        device: where the network is.
        batch_size: images at a time.
        title: which set they are, for messages and the progress bar of the first process.

    Raises:
        RepaError: if the images cannot be read, or their features are not finite.
    """
    process, processes = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    wanted = share(len(images), process, processes)
    batches = tqdm(
        images.batches(batch_size, wanted),
        title,
        total=-(-len(wanted) // batch_size),
        unit="batch",
        disable=process != 0,
    )
    return gather(extract(network, batches, device, f"the {title} {images.path}"))


def check_count(title: str, path: Path, count: int, neighbors: int) -> None:
    """Raises a RepaError if each of `count` images has not that many neighbors."""
    if count <= neighbors:
        raise RepaError(
            f"the {title} {path}: {count} image{'' if count == 1 else 's'}; precision and recall "
            f"with --neighbors {neighbors} need at least {neighbors + 1}"
        )


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
