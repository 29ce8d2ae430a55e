"""What all text encoders do, whatever their network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from repa.errors import RepaError
from repa.text import TextEncoder, create_text_encoder, cut_notice
from text.models import save_bert, save_clip, save_t5

CAPTIONS = ["red heart", "", "police car", "a cat with a red face and a heart " * 10]


@pytest.fixture(params=["clip", "t5", "sentence"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    kind = request.param
    folder = request.getfixturevalue("bert" if kind == "sentence" else kind)
    return create_text_encoder(f"{kind}:{folder}")


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_tokens_have_the_promised_form(encoder: TextEncoder) -> None:
    tokens = encoder(CAPTIONS)
    assert tokens.shape == (4, encoder.length, encoder.dim)
    assert tokens.dtype == torch.float32
    assert tokens.isfinite().all()
    assert (tokens[0] - tokens[2]).abs().max() > 0.1


def test_padding_is_zeros_where_it_is_masked_and_only_there(encoder: TextEncoder) -> None:
    tokens = encoder(CAPTIONS)
    for length, text in zip(encoder.lengths(CAPTIONS), tokens, strict=True):
        is_zero = (text == 0).all(dim=1)
        assert not is_zero[:length].any()
        assert is_zero[length:].all() if encoder.mask_padding else not is_zero.any()


def test_a_caption_does_not_depend_on_its_batch(encoder: TextEncoder) -> None:
    together = encoder(CAPTIONS)
    for caption, tokens in zip(CAPTIONS, together, strict=True):
        close(encoder([caption])[0], tokens)


@pytest.mark.parametrize("count", [0, 1, 64, 65, 130])
def test_any_number_of_captions(encoder: TextEncoder, count: int) -> None:
    captions = [CAPTIONS[i % 4] for i in range(count)]
    tokens = encoder(captions)
    assert tokens.shape == (count, encoder.length, encoder.dim)
    close(tokens, encoder(CAPTIONS)[[i % 4 for i in range(count)]])
    assert len(encoder.lengths(captions)) == count


def test_lengths_are_those_before_the_cut(
    encoder: TextEncoder, log: pytest.LogCaptureFixture
) -> None:
    encoder.tokenizer.model_max_length = encoder.length  # as publishers say: longer is warned of
    special = encoder.lengths([""])[0]
    assert special == (1 if encoder.name.startswith("t5") else 2)
    counts = (1, encoder.length - special, encoder.length - special + 1, 300)
    captions = ["red " * count for count in counts]
    assert encoder.lengths(captions) == [count + special for count in counts]
    full, longer, longest = encoder(captions[1:])
    close(longer, full)
    close(longest, full)
    assert not log.records


@pytest.mark.parametrize("blanks", [" red heart", "red\nheart", "\tred  heart \r\n"])
def test_blanks_are_the_tokenizers_matter(encoder: TextEncoder, blanks: str) -> None:
    close(encoder([blanks]), encoder(["red heart"]))


def test_captions_in_any_script(encoder: TextEncoder) -> None:
    captions = ["cœur rouge", "красное сердце", "赤いハート", "❤️", "\x00\u200d", "🏴‍☠️" * 200]
    assert encoder(captions).isfinite().all()


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ("red heart", "expected a list of captions; got one string, 'red heart'"),
        (["red", None], "expected captions as strings; got a NoneType"),
        ([["red", "heart"]], "expected captions as strings; got a list"),
        ([b"red"], "expected captions as strings; got a bytes"),
        (["red \ud83d"], r"the caption 'red \\ud83d' is no valid Unicode"),
    ],
)
def test_what_is_no_caption_is_refused(encoder: TextEncoder, captions: list, message: str) -> None:
    for method in (encoder, encoder.lengths):
        with pytest.raises(RepaError, match=message):
            method(captions)


def test_it_is_frozen(encoder: TextEncoder) -> None:
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(["red"]).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_is_bfloat16_and_gives_float32(
    encoder: TextEncoder, dtype: torch.dtype
) -> None:
    exact = encoder(CAPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        expected = encoder(CAPTIONS)
    with torch.autocast("cpu", dtype):
        mixed = encoder(CAPTIONS)
    assert torch.equal(mixed, expected)
    assert mixed.dtype == torch.float32
    assert 0 < (mixed - exact).abs().max() < 0.2


def test_t5_stays_finite_where_float16_overflows(t5: Path) -> None:
    encoder = create_text_encoder(f"t5:{t5}")
    for block in encoder.network.encoder.block:  # T5's own feed-forwards reach such values
        block.layer[-1].DenseReluDense.wo.weight.mul_(1e5)
    with torch.autocast("cpu", torch.float16):
        assert encoder(CAPTIONS).isfinite().all()


def test_half_precision_weights_give_float32(encoder: TextEncoder) -> None:
    assert encoder.to(torch.bfloat16)(CAPTIONS).dtype == torch.float32


def test_tokens_that_are_not_finite_are_refused(encoder: TextEncoder) -> None:
    next(encoder.network.parameters()).fill_(float("nan"))
    with pytest.raises(RepaError) as caught:
        encoder(["red heart"])
    message = str(caught.value)
    assert message.startswith(f"the text encoder {encoder.name} makes tokens that are not finite")
    assert "\n" not in message


def test_what_is_cut_is_told(encoder: TextEncoder) -> None:
    special = encoder.lengths([""])[0]
    fitting, longer = ("red " * (encoder.length - special + more) for more in (0, 1))
    assert cut_notice(encoder, ["", fitting], "prompts") is None
    assert cut_notice(encoder, [], "prompts") is None
    assert cut_notice(encoder, [longer, fitting, longer], "prompts") == (
        f"2 of 3 prompts are longer than {encoder.length} tokens and are cut"
    )
    assert cut_notice(encoder, [longer] + [""] * 1200, "captions") == (
        f"1 of 1,201 captions is longer than {encoder.length} tokens and is cut"
    )


@pytest.mark.parametrize(
    ("kind", "save"), [("clip", save_clip), ("t5", save_t5), ("sentence", save_bert)]
)
def test_fingerprints_tell_the_weights(
    tmp_path: Path, kind: str, save: Callable[[Path, int], Path]
) -> None:
    names = [f"{kind}:{save(tmp_path / str(i), seed)}" for i, seed in enumerate((0, 0, 1))]
    same, copy, other = (create_text_encoder(name).fingerprint for name in names)
    assert same == copy != other
    assert len(same) == 16
