import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.disk import full_disk
from evaluation.tiny import Tiny
from repa.errors import RepaError
from repa.evaluation import Gaussian
from repa.evaluation.extract import extract
from repa.evaluation.statistics import Reference, read_reference, save_reference


@pytest.fixture
def network() -> Tiny:
    return Tiny()


@pytest.fixture
def reference(network: Tiny) -> Reference:
    images = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
    fitted = Reference.fit(extract(network, [images]))
    return Reference(
        fitted.gaussian, fitted.spatial, fitted.features, fitted.count, image_size=(8, 8)
    )


def statistics(**others: Any) -> dict[str, Any]:
    """As in ADM's files."""
    return {
        "mu": np.arange(6, dtype=np.float32),
        "sigma": np.eye(6),
        "mu_s": np.ones(5),
        "sigma_s": np.eye(5) * 2,
    } | others


def test_fitting_is_of_each_kind_of_features(network: Tiny) -> None:
    features = extract(network, [torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)])
    reference = Reference.fit(features)
    assert features.spatial is not None
    assert reference.spatial is not None
    for gaussian, rows in (
        (reference.gaussian, features.features),
        (reference.spatial, features.spatial),
    ):
        torch.testing.assert_close(gaussian.covariance, torch.cov(rows.double().T))
    assert (reference.count, reference.num_images, reference.stored) == (20, 20, False)


def test_what_is_saved_is_read_to_the_last_bit(
    tmp_path: Path, network: Tiny, reference: Reference
) -> None:
    path = tmp_path / "stats.npz"
    save_reference(path, reference, network)
    read = read_reference(path, network)
    assert read is not None
    assert read.spatial is not None
    for ours, theirs in (
        (read.gaussian, reference.gaussian),
        (read.spatial, reference.spatial),
    ):
        assert isinstance(theirs, Gaussian)
        assert torch.equal(ours.mean, theirs.mean)
        assert torch.equal(ours.covariance, theirs.covariance)
        assert ours.mean.dtype == ours.covariance.dtype == torch.float64
    assert read.features is not None
    assert reference.features is not None
    assert torch.equal(read.features, reference.features)
    assert (read.count, read.image_size, read.stored) == (20, (8, 8), True)
    assert os.listdir(tmp_path) == ["stats.npz"]
    with np.load(path) as arrays:  # for ADM's suite and others
        assert {"mu", "sigma", "mu_s", "sigma_s"} < set(arrays)
        assert arrays["mu"].dtype == arrays["sigma"].dtype == np.float64


def test_statistics_without_a_network_are_inceptions(tmp_path: Path, network: Tiny) -> None:
    np.savez(tmp_path / "adm.npz", **statistics())
    read = read_reference(tmp_path / "adm.npz", network)
    assert read is not None
    assert read.features is None
    assert (read.count, read.num_images, read.image_size) == (None, None, None)
    assert read.gaussian.mean.tolist() == [0, 1, 2, 3, 4, 5]
    assert read.spatial is not None
    assert torch.equal(read.spatial.covariance, 2 * torch.eye(5, dtype=torch.float64))
    with pytest.raises(RepaError, match=r"adm.npz holds statistics of inception, not of dinov2"):
        read_reference(tmp_path / "adm.npz", Tiny("dinov2"))


def test_images_beside_inceptions_statistics_serve_any_network(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "adm.npz", arr_0=images, **statistics())
    assert read_reference(tmp_path / "adm.npz", Tiny("inception")) is not None
    assert read_reference(tmp_path / "adm.npz", Tiny("dinov2")) is None
    np.savez(tmp_path / "images.npz", arr_0=images)
    assert read_reference(tmp_path / "images.npz", Tiny("inception")) is None


def test_statistics_of_another_network_or_other_weights_are_refused(
    tmp_path: Path, network: Tiny, reference: Reference
) -> None:
    save_reference(tmp_path / "s.npz", reference, network)
    with pytest.raises(RepaError, match=r"s.npz holds statistics of inception, not of clip"):
        read_reference(tmp_path / "s.npz", Tiny("clip"))
    with pytest.raises(RepaError, match="s.npz holds statistics of inception with other weights"):
        read_reference(tmp_path / "s.npz", Tiny("inception", seed=1))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "shape of mu": ({"mu": np.zeros(7)}, r"mu is float64 \(7,\); expected float32 or .* \(6\)"),
    "shape of sigma": ({"sigma": np.zeros((6, 5))}, r"sigma is float64 \(6, 5\); .* \(6, 6\)"),
    "shape of sigma_s": ({"sigma_s": np.eye(6)}, r"sigma_s is float64 \(6, 6\); .* \(5, 5\)"),
    "a row too much": ({"mu": np.zeros((1, 6))}, r"mu is float64 \(1, 6\)"),
    "integers": ({"mu": np.zeros(6, np.int64)}, r"mu is int64 \(6,\)"),
    "halves": ({"sigma": np.eye(6, dtype=np.float16)}, r"sigma is float16"),
    "complex": ({"sigma": np.eye(6, dtype=complex)}, r"sigma is complex128"),
    "nan": ({"mu": np.full(6, np.nan)}, "mu holds numbers that are not finite"),
    "infinite": ({"sigma": np.full((6, 6), np.inf)}, "sigma holds numbers that are not finite"),
    "features": ({"features": np.zeros((9, 5), np.float32)}, r"features is .* float32 \(N, 6\)"),
    "double features": ({"features": np.zeros((9, 6))}, r"features is float64 \(9, 6\)"),
    "nan features": ({"features": np.full((9, 6), np.nan, np.float32)}, "features holds numbers"),
    "count": ({"count": np.zeros(3)}, r"count is float64 \(3,\); expected int64, 1 whole number"),
    "negative count": ({"count": np.array(-5)}, r"count is int64 -5; expected .* at least 2"),
    "count of one": ({"count": np.array(1)}, r"count is int64 1; expected .* at least 2"),
    "two counts": ({"count": np.array([9, 9])}, r"count is int64 \[9, 9\]; expected int64, 1 "),
    "no count": ({"count": np.zeros(0, np.int64)}, r"count is int64 \[\]; expected int64, 1 "),
    "one side": ({"image_size": np.array([8])}, r"image_size is int64 \[8\]; .*, 2 whole numbers"),
    "sides": ({"image_size": np.array([-1, 0])}, r"image_size is int64 \[-1, 0\]; .* at least 1"),
    "negative sigma": ({"sigma": -np.eye(6)}, "sigma is no covariance: expected a symmetric"),
    "negative sigma_s": ({"sigma_s": -np.eye(5)}, "sigma_s is no covariance"),
    "a negative variance": ({"sigma": np.diag([1, 1, 1, -0.01, 1, 1])}, "sigma is no covariance"),
    "a negative eigenvalue": ({"sigma": np.ones((6, 6)) - 0.1 * np.eye(6)}, "sigma is no cov"),
    "a sigma of one side": ({"sigma": np.tri(6)}, "sigma is no covariance"),
    "huge and negative": ({"sigma": -1e308 * np.eye(6)}, "sigma is no covariance"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_statistics_of_a_wrong_form_are_refused(
    tmp_path: Path, network: Tiny, change: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "x.npz", **statistics(**change))
    with pytest.raises(RepaError, match=rf"^[^\n]*x.npz: {message}[^\n]*$"):
        read_reference(tmp_path / "x.npz", network)


COVARIANCES: dict[str, np.ndarray] = {
    "zero": np.zeros((6, 6)),
    "of deficient rank": np.ones((6, 6)),
    "tiny": np.eye(6) * 1e-300,
    "huge": np.eye(6) * 1e308,
    "float32": np.cov(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)).astype("f4"),
}


@pytest.mark.parametrize("sigma", COVARIANCES.values(), ids=COVARIANCES)
def test_any_covariance_is_taken(tmp_path: Path, network: Tiny, sigma: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", **statistics(sigma=sigma))
    reference = read_reference(tmp_path / "x.npz", network)
    assert reference is not None
    np.testing.assert_array_equal(reference.gaussian.covariance, sigma.astype(np.float64))


def test_statistics_that_cannot_be_written_leave_nothing(
    tmp_path: Path, network: Tiny, reference: Reference
) -> None:
    message = r"^--save-stats [^\n]*s.npz cannot be written: File too large$"
    with full_disk(), pytest.raises(RepaError, match=message):
        save_reference(tmp_path / "s.npz", reference, network)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["sigma", "mu_s", "sigma_s"])
def test_half_of_a_gaussian_is_refused(tmp_path: Path, network: Tiny, name: str) -> None:
    arrays = statistics()
    del arrays[name]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(RepaError, match=f"x.npz has no {name}, which belongs"):
        read_reference(tmp_path / "x.npz", network)


def test_features_without_statistics_are_refused(tmp_path: Path, network: Tiny) -> None:
    np.savez(tmp_path / "x.npz", features=np.zeros((9, 6), np.float32))
    with pytest.raises(RepaError, match="x.npz has features but no mu"):
        read_reference(tmp_path / "x.npz", network)


def test_a_pickle_among_statistics_is_refused_and_not_run(tmp_path: Path, network: Tiny) -> None:
    class Poison:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was-run"),)

    np.savez(tmp_path / "x.npz", **statistics(mu=np.array([Poison()])))
    with pytest.raises(RepaError, match="x.npz: no readable npz: Object arrays"):
        read_reference(tmp_path / "x.npz", network)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_statistics_are_one_clear_line(
    tmp_path: Path, network: Tiny, share: float, save: Callable[..., None]
) -> None:
    save(tmp_path / "x.npz", **statistics())
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(data[: int(share * len(data))])
    with pytest.raises(RepaError, match=r"^[^\n]*x.npz: no readable npz: [^\n]*$"):
        read_reference(tmp_path / "x.npz", network)
