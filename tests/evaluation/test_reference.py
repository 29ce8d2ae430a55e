from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.tiny import Tiny
from repa.data import PreparedDataset
from repa.errors import RepaError
from repa.evaluation import Gaussian
from repa.evaluation.reference import load_reference
from repa.evaluation.statistics import save_reference


@pytest.fixture
def pixels(emoji: PreparedDataset) -> np.ndarray:
    """(64, 32, 32, 3), uint8."""
    return emoji.images(range(64)).transpose(0, 2, 3, 1)


def test_images_go_through_the_network_once(emoji_dir: Path, emoji: PreparedDataset) -> None:
    network = Tiny()
    reference = load_reference(emoji_dir, network, batch_size=10)
    assert network.images_seen == 64
    assert (reference.count, reference.image_size, reference.stored) == (64, (32, 32), False)
    expected = network(torch.from_numpy(emoji.images(range(64))))
    torch.testing.assert_close(reference.features, expected.features)
    gaussian = Gaussian.fit(expected.features)
    torch.testing.assert_close(reference.gaussian.covariance, gaussian.covariance)
    assert expected.spatial is not None
    assert reference.spatial is not None
    torch.testing.assert_close(reference.spatial.mean, Gaussian.fit(expected.spatial).mean)


def test_saved_statistics_need_no_network(tmp_path: Path, emoji_dir: Path) -> None:
    network = Tiny()
    reference = load_reference(emoji_dir, network)
    save_reference(tmp_path / "s.npz", reference, network)
    network.images_seen = 0
    again = load_reference(tmp_path / "s.npz", network)
    assert network.images_seen == 0
    assert again.stored
    assert again.features is not None
    assert reference.features is not None
    assert torch.equal(again.features, reference.features)


def test_adms_files_have_statistics_of_more_than_their_images(
    tmp_path: Path, pixels: np.ndarray
) -> None:
    """Frechet distances are to the first, precision and recall to the second."""
    network = Tiny()
    stored = {"mu": np.full(6, 3.0), "sigma": np.eye(6), "mu_s": np.ones(5), "sigma_s": np.eye(5)}
    np.savez(tmp_path / "adm.npz", arr_0=pixels, **stored)
    reference = load_reference(tmp_path / "adm.npz", network)
    assert reference.gaussian.mean.tolist() == [3.0] * 6
    assert reference.spatial is not None
    assert reference.spatial.mean.tolist() == [1.0] * 5
    expected = network(torch.from_numpy(pixels).permute(0, 3, 1, 2)).features
    torch.testing.assert_close(reference.features, expected)
    assert (reference.count, reference.num_images) == (None, 64)
    assert (reference.stored, reference.image_size) == (True, (32, 32))
    # Saved, the network runs on the images no more.
    save_reference(tmp_path / "s.npz", reference, network)
    network.images_seen = 0
    again = load_reference(tmp_path / "s.npz", network)
    assert network.images_seen == 0
    assert (again.gaussian.mean.tolist(), again.num_images) == ([3.0] * 6, 64)
    # Another network has no use for the statistics.
    other = load_reference(tmp_path / "adm.npz", Tiny("dinov2"))
    assert (other.stored, other.count) == (False, 64)


def test_too_few_images_are_one_clear_line(tmp_path: Path, pixels: np.ndarray) -> None:
    np.savez(tmp_path / "few.npz", pixels[:5])
    needed = "precision and recall with --neighbors 5 need at least 6"
    with pytest.raises(RepaError, match=rf"the reference .*few.npz: 5 images; {needed}$"):
        load_reference(tmp_path / "few.npz", Tiny(), neighbors=5)
    reference = load_reference(tmp_path / "few.npz", Tiny(), neighbors=4)
    save_reference(tmp_path / "s.npz", reference, Tiny())
    with pytest.raises(RepaError, match=rf"the reference .*s.npz: 5 images; {needed}$"):
        load_reference(tmp_path / "s.npz", Tiny(), neighbors=5)
    np.savez(tmp_path / "one.npz", pixels[:1])
    with pytest.raises(RepaError, match=r"one.npz: 1 image; .* --neighbors 1 need at least 2$"):
        load_reference(tmp_path / "one.npz", Tiny(), neighbors=1)


def test_neither_images_nor_statistics_is_one_clear_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", other=np.zeros(3))
    with pytest.raises(RepaError, match="x.npz: no readable npz with arr_0"):
        load_reference(tmp_path / "x.npz", Tiny())
    with pytest.raises(RepaError, match="nowhere.npz: no readable npz"):
        load_reference(tmp_path / "nowhere.npz", Tiny())
