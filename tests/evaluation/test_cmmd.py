import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from repa.evaluation import blocks, cmmd


def embeddings(count: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 9, generator=generator, dtype=torch.float64) + shift)


def direct(real: Tensor, fake: Tensor) -> float:
    def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-(x[:, None] - y).square().sum(-1) / 200).mean()

    value = mean_kernel(real, real) + mean_kernel(fake, fake) - 2 * mean_kernel(real, fake)
    return 1000 * value.item()


@pytest.mark.parametrize("side", [1, 4, 13, 100])
def test_it_is_the_formula_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    monkeypatch.setattr(blocks, "block_side", lambda dim: side)
    real, fake = embeddings(13, 0), embeddings(8, 1, 1.0)
    assert cmmd(real, fake) == pytest.approx(direct(real, fake), rel=1e-9)
    assert cmmd(fake, real) == pytest.approx(direct(real, fake), rel=1e-9)
    assert cmmd(real, fake) > 1


def test_equal_sets_have_none() -> None:
    x = embeddings(20, 0)
    assert cmmd(x, x.flip(0)) == pytest.approx(0, abs=1e-9)


def test_sets_that_do_not_fit_are_an_error() -> None:
    for real, fake in (((0, 3), (9, 3)), ((9, 3), (9, 4))):
        with pytest.raises(ValueError, match="sets of"):
            cmmd(torch.zeros(real), torch.zeros(fake))
