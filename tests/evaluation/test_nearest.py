import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from evaluation.tiny import options
from repa.data import PreparedDataset
from repa.errors import RepaError
from repa.evaluation import blocks, nearest
from repa.evaluation.evaluate import run_evaluate
from repa.evaluation.images import ImageSet
from repa.evaluation.nearest import Nearest, find_nearest, save_picture


def rows(count: int, seed: int, dim: int = 5) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + 100


@pytest.mark.parametrize("side", [1, 2, 4, 100])
@pytest.mark.parametrize("compared", [4, 11])
def test_it_finds_what_all_distances_show(
    monkeypatch: pytest.MonkeyPatch, side: int, compared: int
) -> None:
    """In blocks with fewer rows than neighbors, too."""
    monkeypatch.setattr(blocks, "block_side", lambda dim: side)
    monkeypatch.setattr(nearest, "COMPARED", compared)
    real, fake = rows(11, 0), rows(9, 1)
    found = find_nearest(real, fake)
    everything = torch.cdist(fake.double(), real.double())
    expected, order = everything.sort(1)
    torch.testing.assert_close(found.distances, expected[:, :3])
    assert torch.equal(found.indices, order[:, :3])
    own = torch.cdist(real.double(), real.double()).fill_diagonal_(torch.inf).amin(1)
    chosen = [i * 11 // compared for i in range(compared)]
    assert found.own_distance == pytest.approx(own[chosen].median().item())
    ratio = expected[:, 0].median().item() / own[chosen].median().item()
    assert found.nearest_distance == pytest.approx(ratio)


def test_copies_are_counted() -> None:
    distances = torch.tensor([[1, 3.1, 4], [1, 2.9, 4], [0, 1, 2], [0, 0, 5], [2, 2, 2.0]])
    assert Nearest(distances.double(), distances.long(), 2.0).memorized == 3 / 5
    assert Nearest(distances.double(), distances.long(), 2.0).nearest_distance == 0.5


def test_samples_that_are_images_of_the_reference_have_no_distance() -> None:
    """Nor have those that only the rounding of float32 tells from them."""
    real = rows(30, 0, 64)
    found = find_nearest(real, real[:10] * (1 + 1e-7))
    assert found.distances[:, 0].tolist() == [0] * 10
    assert found.indices[:, 0].tolist() == list(range(10))
    assert (found.memorized, found.nearest_distance) == (1, 0)
    assert find_nearest(real, rows(10, 1, 64)).memorized == 0


def test_images_that_are_there_twice_give_numbers() -> None:
    twice = torch.cat([rows(4, 0), rows(4, 0)])
    found = find_nearest(twice, torch.cat([twice[:3], rows(1, 5)]))
    assert found.memorized == 3 / 4
    assert found.nearest_distance is None
    assert find_nearest(torch.ones(5, 3), torch.ones(2, 3)).memorized == 1


def test_sets_that_do_not_fit_are_an_error() -> None:
    for real, fake in (
        (rows(1, 0), rows(3, 0)),
        (rows(3, 0), rows(0, 0)),
        (rows(3, 0), rows(3, 0, 4)),
    ):
        with pytest.raises(ValueError, match="sets of"):
            find_nearest(real, fake)
    assert find_nearest(rows(2, 0), rows(3, 1)).distances.shape == (3, 2)


def test_the_picture_shows_samples_beside_their_neighbors(
    tmp_path: Path, emoji_dir: Path, emoji: PreparedDataset
) -> None:
    """Of 18 samples of 16 px the 16 nearest; reference images of 32 px get their size."""
    colors = np.arange(18, dtype=np.uint8)
    np.savez(tmp_path / "s.npz", np.broadcast_to(colors[:, None, None, None], (18, 16, 16, 3)))
    distances = torch.arange(18).flip(0)[:, None] + torch.arange(3).double()
    indices = torch.arange(54).reshape(18, 3)
    samples, reference = ImageSet(tmp_path / "s.npz"), ImageSet(emoji_dir)
    save_picture(tmp_path / "x.png", Nearest(distances, indices, 1.0), samples, reference)
    with Image.open(tmp_path / "x.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (8 * 22 - 6, 2 * (4 * 17 - 1 + 6) - 6, 3)
    for place in range(16):
        top, left, sample = place // 2 * 22, place % 2 * 73, 17 - place
        assert (sheet[top : top + 16, left : left + 16] == sample).all()
        for k in range(3):
            pixels = emoji.images([3 * sample + k])[0].transpose(1, 2, 0)
            expected = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC)
            x = left + 17 * (k + 1)
            np.testing.assert_array_equal(sheet[top : top + 16, x : x + 16], expected)


def test_evaluate_finds_copies(
    tmp_path: Path,
    emoji_dir: Path,
    emoji: PreparedDataset,
    tiny: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = emoji.images(range(64)).transpose(0, 2, 3, 1)
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "s.npz", np.concatenate([noise, images[10:20]]))
    results = []
    for reference in (emoji_dir, tmp_path / "reference.npz"):
        np.savez(tmp_path / "reference.npz", images)
        targets = {"output": tmp_path / "x.json", "nearest": tmp_path / "new" / "x.png"}
        run_evaluate(options(reference, tmp_path / "s.npz", overwrite=True, **targets))
        results.append(json.loads((tmp_path / "x.json").read_text()))
        with Image.open(tmp_path / "new" / "x.png") as image:
            pixels = np.asarray(image)
        np.testing.assert_array_equal(pixels[:32, :32], images[10])
        np.testing.assert_array_equal(pixels[:32, 33:65], images[10])
    one, two = results
    assert one["memorized"] >= 10 / 40
    assert one["nearest_distance"] > 1
    for name in ("memorized", "nearest_distance"):
        assert two[name] == pytest.approx(one[name])
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[-2:])
    assert printed.keys() == {"memorized", "nearest_distance"}
    assert float(printed["memorized"]) == pytest.approx(one["memorized"])
    given = {"output": tmp_path / "x.json", "overwrite": True}
    run_evaluate(options(emoji_dir, tmp_path / "s.npz", **given))
    assert "memorized" not in json.loads((tmp_path / "x.json").read_text())


def test_statistics_alone_have_no_images_to_show(
    tmp_path: Path, emoji_dir: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_evaluate(options(emoji_dir, emoji_dir, save_stats=tmp_path / "stats.npz"))
    monkeypatch.setattr("repa.evaluation.evaluate.create_network", None)
    with pytest.raises(
        RepaError, match=r"^--nearest shows images of the reference, and .*stats.np"
    ):
        run_evaluate(options(tmp_path / "stats.npz", emoji_dir, nearest=tmp_path / "x.png"))
    assert not (tmp_path / "x.png").exists()
