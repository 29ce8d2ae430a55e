import pytest
import torch

from repa.evaluation import blocks
from repa.evaluation.blocks import BLOCK_BYTES, Rows, block_side, squared_distances


@pytest.mark.parametrize("dim", [1, 5, 768, 2048, 100_000])
def test_a_block_fills_the_memory_it_may_and_no_more(dim: int) -> None:
    def bytes_of(side: int) -> int:
        return 8 * (2 * side * dim + 2 * side * side)

    side = block_side(dim)
    assert bytes_of(side) <= BLOCK_BYTES < bytes_of(side + 1)


def test_a_block_has_a_row_however_wide() -> None:
    assert block_side(10**9) == 1
    assert block_side(2048, block_bytes=1) == 1


def test_blocks_are_all_rows_in_order_centered_and_in_double(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "block_side", lambda dim: 4)
    x = torch.randn(11, 3)
    rows = Rows(x, x.mean(0, dtype=torch.float64), "cpu")
    places, parts = zip(*rows.blocks(), strict=True)
    assert places == (slice(0, 4), slice(4, 8), slice(8, 11))
    torch.testing.assert_close(torch.cat(parts), x.double() - x.double().mean(0))
    assert [place for place, _ in rows.blocks(start=8)] == [slice(8, 11)]


def test_distances_are_those_of_subtracted_rows() -> None:
    x, y = torch.randn(7, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    expected = (x[:, None] - y).square().sum(-1)
    torch.testing.assert_close(squared_distances(x, y), expected)
    assert (squared_distances(x, y, slack=1e-9) < squared_distances(x, y)).all()
    torch.testing.assert_close(squared_distances(x, y, slack=1e-9), expected, rtol=1e-6, atol=1e-6)
