import pytest
import torch

from repa.data.features import pack_features, unpack_features


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    """Tokens as encoders give them: of different lengths, some channels much larger."""
    generator = torch.Generator().manual_seed(0)
    channels = torch.exp(torch.randn(384, generator=generator))
    lengths = torch.exp(torch.randn(4, 16, 1, generator=generator))
    return torch.randn(4, 16, 384, generator=generator) * channels * lengths


def test_float16_keeps_the_tokens_to_its_precision(tokens: torch.Tensor) -> None:
    arrays = pack_features("x", tokens, "float16")
    assert {key: value.dtype for key, value in arrays.items()} == {"features.x": torch.float16}
    torch.testing.assert_close(unpack_features("x", arrays), tokens, rtol=1e-3, atol=1e-3)


def test_int8_is_off_by_half_a_step_of_its_token_at_most(tokens: torch.Tensor) -> None:
    arrays = pack_features("x", tokens, "int8")
    assert {key: (value.dtype, value.shape) for key, value in arrays.items()} == {
        "features.x": (torch.int8, tokens.shape),
        "features.x.scale": (torch.float32, tokens.shape[:2]),
    }
    step = tokens.abs().amax(-1, keepdim=True) / 127
    unpacked = unpack_features("x", arrays)
    assert unpacked.dtype == torch.float32
    assert ((unpacked - tokens).abs() <= 0.5001 * step).all()
    cosine = torch.nn.functional.cosine_similarity(unpacked, tokens, dim=-1)
    assert cosine.min() > 0.998


def test_what_float16_cannot_hold_stays_finite() -> None:
    tokens = torch.tensor([[[1e6, -1e6, 1.0]]])
    unpacked = unpack_features("x", pack_features("x", tokens, "float16"))
    assert unpacked.tolist() == [[[65504, -65504, 1]]]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_token_of_zeros_stays_one(dtype: str) -> None:
    arrays = pack_features("x", torch.zeros(1, 2, 8), dtype)  # type: ignore[arg-type]
    assert (unpack_features("x", arrays) == 0).all()


def test_half_precision_tokens_are_scaled_in_float32(tokens: torch.Tensor) -> None:
    half = tokens.bfloat16()
    one, other = (unpack_features("x", pack_features("x", t, "int8")) for t in (half, half.float()))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
