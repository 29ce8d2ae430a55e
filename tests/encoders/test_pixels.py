import pytest
import torch

from repa.encoders import Description, create_encoder
from repa.encoders.pixels import PixelEncoder
from repa.errors import RepaError


@pytest.mark.parametrize(("resolution", "grid_size", "patch"), [(32, None, 2), (32, 4, 8)])
def test_tokens_are_the_patches_of_the_image(
    resolution: int, grid_size: int | None, patch: int
) -> None:
    encoder = create_encoder("pixels", resolution, grid_size)
    images = torch.randint(0, 256, (2, 3, resolution, resolution), dtype=torch.uint8)
    side = resolution // patch
    assert (encoder.grid_size, encoder.dim) == (side, 3 * patch**2)
    tokens = encoder(images)
    assert tokens.shape == (2, side**2, 3 * patch**2)
    row, column = 1, 2
    cut = images[:, :, patch * row : patch * (row + 1), patch * column : patch * (column + 1)]
    expected = cut.float().flatten(1) / 127.5 - 1
    torch.testing.assert_close(tokens[:, side * row + column], expected)


def test_a_grid_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(RepaError, match="30 px do not divide into 16 patches a side"):
        create_encoder("pixels", 30)


def test_it_needs_no_weights(tmp_path) -> None:
    described = PixelEncoder.describe("pixels", 256, tmp_path)
    assert described == Description(0.0, 256, 16, 768, "none", "installed")
    assert create_encoder("pixels", 256).fingerprint == create_encoder("pixels", 32).fingerprint
