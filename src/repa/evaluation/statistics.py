"""What samples are compared with, computed once: fitted Gaussians and features, in an npz.

    mu, sigma         mean (D,) and covariance (D, D) of the features, float64
    mu_s, sigma_s     of the spatial features, where the network has them
    features          (N, D) float32, for precision, recall and kernel distances
    network, weights  the network's name and the fingerprint of its weights
    count             how many images the Gaussians are fitted to, where known
    image_size        height and width of the images

The first two lines are the names of ADM's reference files, which have `arr_0`, images, instead of
the rest. There `mu` to `sigma_s` are of all training images, and `arr_0` is some of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repa.errors import RepaError
from repa.evaluation.frechet import Gaussian
from repa.evaluation.networks.base import Features, Network
from repa.evaluation.npz import npz_names, read_arrays
from repa.evaluation.targets import writing

GAUSSIANS = {"gaussian": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
OWN = {"features", "network", "weights", "count", "image_size"}
ROUNDING = 1e-5  # of a covariance's entries and eigenvalues, where it was stored in float32
DEFAULT_NETWORK = "inception"  # of statistics that do not say


@dataclass(frozen=True)
class Reference:
    """What samples are compared with.

    Attributes:
        gaussian: fitted to the features.
        spatial: fitted to the spatial features; None if there are none.
        features: (N, D) float32 on the CPU; None if only statistics are known.
        count: images that the Gaussians are fitted to, where known.
        image_size: height and width of the images, where known.
        stored: whether the Gaussians came with a file.
    """

    gaussian: Gaussian
    spatial: Gaussian | None = None
    features: Tensor | None = None
    count: int | None = None
    image_size: tuple[int, int] | None = None
    stored: bool = False

    @classmethod
    def fit(cls, features: Features, device: torch.device | str = "cpu") -> Reference:
        """The reference that images of these features are; computed on a device."""
        spatial = None if features.spatial is None else Gaussian.fit(features.spatial, device)
        gaussian = Gaussian.fit(features.features, device)
        return cls(gaussian, spatial, features.features, len(features))

    @property
    def num_images(self) -> int | None:
        """Images compared one by one; where there are none, those behind the Gaussians."""
        return self.count if self.features is None else len(self.features)


def save_reference(path: Path, reference: Reference, network: Network) -> None:
    """Writes statistics so that any reader sees the old file or the new one whole.

    Raises:
        RepaError: if they cannot be written.
    """
    arrays: dict[str, Any] = {
        "network": np.array(network.name),
        "weights": np.array(network.fingerprint),
    }
    for field, (mean, covariance) in GAUSSIANS.items():
        gaussian = getattr(reference, field)
        if gaussian is not None:
            arrays[mean] = gaussian.mean.numpy()
            arrays[covariance] = gaussian.covariance.numpy()
    if reference.features is not None:
        arrays["features"] = reference.features.numpy()
    if reference.count is not None:
        arrays["count"] = np.array(reference.count, np.int64)
    if reference.image_size is not None:
        arrays["image_size"] = np.array(reference.image_size, np.int64)
    with writing("--save-stats", path) as file:
        np.savez(file, **arrays)


def read_reference(path: Path, network: Network) -> Reference | None:
    """The statistics in an npz; None if it has none, or images and another network's statistics.

    Raises:
        RepaError: if they are another network's, incomplete, damaged, or of the wrong form.
    """
    names = npz_names(path)
    if "mu" not in names:
        if names & OWN:
            raise RepaError(f"{path} has {min(names & OWN)} but no mu: these are no statistics")
        return None
    found = {name for pair in GAUSSIANS.values() for name in pair} & names
    arrays = read_arrays(path, found | (OWN & names))
    owner = str(arrays.get("network", DEFAULT_NETWORK))
    if owner != network.name:
        if "network" not in arrays and "arr_0" in names:
            return None  # the images serve any network
        raise RepaError(
            f"{path} holds statistics of {owner}, not of {network.name}: give images, or "
            f"{owner} as --network (--eval-network in training)"
        )
    if "weights" in arrays and str(arrays["weights"]) != network.fingerprint:
        raise RepaError(
            f"{path} holds statistics of {owner} with other weights ({arrays['weights']}) than "
            f"these ({network.fingerprint}): make them anew with repa evaluate --save-stats"
        )
    gaussian = _gaussian(path, arrays, "gaussian", network.dim)
    spatial = None
    if network.spatial_dim and {"mu_s", "sigma_s"} & names:
        spatial = _gaussian(path, arrays, "spatial", network.spatial_dim)
    features = None
    if "features" in arrays:
        features = _tensor(path, arrays, "features", (None, network.dim), (np.float32,))
    count = _integers(path, arrays, "count", 1, least=2)
    size = _integers(path, arrays, "image_size", 2, least=1)
    return Reference(
        gaussian,
        spatial,
        features,
        count[0] if count else None,
        (size[0], size[1]) if size else None,
        stored=True,
    )


def _gaussian(path: Path, arrays: dict[str, np.ndarray], field: str, dim: int) -> Gaussian:
    mean, covariance = GAUSSIANS[field]
    gaussian = Gaussian(
        _tensor(path, arrays, mean, (dim,)).double(),
        _tensor(path, arrays, covariance, (dim, dim)).double(),
    )
    if not _is_covariance(gaussian.covariance):
        raise RepaError(
            f"{path}: {covariance} is no covariance: expected a symmetric matrix without negative "
            "eigenvalues"
        )
    return gaussian


def _is_covariance(matrix: Tensor) -> bool:
    """Whether it is symmetric and has no negative eigenvalue, but for what float32 rounds."""
    scale = matrix.abs().max()
    if scale == 0:
        return True
    matrix = matrix / scale
    slack = ROUNDING * matrix.diagonal().abs().sum()
    # There is a Cholesky factor just when all eigenvalues are positive, and it is found fast.
    shifted = matrix + slack * torch.eye(len(matrix), dtype=matrix.dtype)
    factored = torch.linalg.cholesky_ex(shifted).info == 0
    return bool((matrix - matrix.T).abs().max() <= ROUNDING) and bool(factored)


def _integers(
    path: Path, arrays: dict[str, np.ndarray], name: str, length: int, least: int
) -> list[int]:
    """So many of an array, none below the least; an empty list if it is not there."""
    if name not in arrays:
        return []
    array = arrays[name]
    if array.dtype != np.int64 or array.size != length or array.min() < least:
        shown = str(array.tolist()) if array.size <= 2 else str(array.shape)
        raise RepaError(
            f"{path}: {name} is {array.dtype} {shown}; expected int64, {length} whole number"
            f"{'s' if length > 1 else ''} of at least {least}"
        )
    return array.flatten().tolist()


def _tensor(
    path: Path,
    arrays: dict[str, np.ndarray],
    name: str,
    shape: tuple[int | None, ...],
    dtypes: tuple[type, ...] = (np.float32, np.float64),
) -> Tensor:
    """An array, checked."""
    if name not in arrays:
        raise RepaError(f"{path} has no {name}, which belongs to its statistics")
    array = arrays[name]
    fits = array.ndim == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype not in dtypes:
        wanted = ", ".join("N" if length is None else str(length) for length in shape)
        kinds = " or ".join(dtype.__name__ for dtype in dtypes)
        raise RepaError(
            f"{path}: {name} is {array.dtype} {array.shape}; expected {kinds} ({wanted})"
        )
    if not np.isfinite(array).all():
        raise RepaError(f"{path}: {name} holds numbers that are not finite")
    return torch.from_numpy(array)
