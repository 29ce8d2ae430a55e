import math

import numpy as np
import pytest
import torch
from torch import Tensor

from repa.analysis import spatial as module
from repa.analysis import spatial_structure
from repa.analysis.targets import encoder_tokens
from repa.data import PreparedDataset
from repa.encoders import create_encoder
from repa.errors import RepaError


def plain(tokens: Tensor) -> dict[str, float]:
    """The definitions for one image's tokens (T, D), pair by pair."""
    u = tokens.double().numpy()
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    side = math.isqrt(len(u))
    cosines: dict[int, list[float]] = {}
    for i in range(len(u)):
        for j in range(i + 1, len(u)):
            distance = abs(i // side - j // side) + abs(i % side - j % side)
            cosines.setdefault(distance, []).append(u[i] @ u[j])
    far = np.concatenate([values for d, values in cosines.items() if d >= 6])
    distances = [d for d in range(1, 9) if d in cosines]
    slope, _ = np.polyfit(distances, [np.mean(cosines[d]) for d in distances], 1)
    return {
        "lds": np.mean(cosines[1]) - far.mean(),
        "cds": -slope,
        "rmsc": np.sqrt(((u - u.mean(0)) ** 2).sum(1).mean()),
    }


@pytest.mark.parametrize("side", [4, 5, 9])  # distances up to 6, to 8, and beyond
def test_metrics_equal_their_definitions(side: int) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(3, side**2, 6) + 1
    found = spatial_structure(tokens)
    for i in range(3):
        one = {name: values[i].item() for name, values in found.items()}
        assert one == pytest.approx(plain(tokens[i]), abs=1e-5)


def test_real_tokens_have_more_structure_than_the_same_in_any_order(
    emoji: PreparedDataset,
) -> None:
    encoder = create_encoder("efficientnet-lite0", 32, grid_size=8)
    [(_, tokens)] = encoder_tokens(emoji, range(16), encoder)
    shuffled = tokens[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    real, mixed = spatial_structure(tokens), spatial_structure(shuffled)
    assert {name: values.shape for name, values in real.items()} == dict.fromkeys(real, (16,))
    assert real["lds"].mean() > mixed["lds"].mean() + 0.1
    assert real["cds"].mean() > mixed["cds"].mean() + 0.01
    torch.testing.assert_close(real["rmsc"], mixed["rmsc"])  # knows no places


def test_tokens_that_are_all_alike_have_none() -> None:
    found = spatial_structure(torch.ones(2, 25, 3) * torch.tensor([1.0, 5.0])[:, None, None])
    for values in found.values():
        torch.testing.assert_close(values, torch.zeros(2), atol=1e-3, rtol=0)


def test_slices_change_nothing(emoji: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = emoji.features("efficientnet-lite0", range(5)).half()
    whole = spatial_structure(tokens)
    monkeypatch.setattr(module, "SLICE_BYTES", 2 * 4 * 16**2)
    torch.testing.assert_close(spatial_structure(tokens), whole)


def test_no_image_has_no_metric() -> None:
    assert {len(v) for v in spatial_structure(torch.zeros(0, 64, 3)).values()} == {0}


def test_grids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RepaError, match="4 x 4 or more; these are 3 x 3"):
        spatial_structure(torch.randn(2, 9, 4))
    with pytest.raises(ValueError, match="square grid; got 17"):
        spatial_structure(torch.randn(2, 17, 4))
