from types import SimpleNamespace

import pytest

from repa.errors import RepaError
from repa.models import MMDiT
from repa.sampling.text_encoder import check_sizes, has_other_weights


def model(**arguments) -> MMDiT:
    return MMDiT(input_size=4, depth=1, hidden_size=16, context_dim=12, **arguments)


def state(**options):
    return SimpleNamespace(model="MMDiT-S/2", options=options, text=None)


def test_tokens_of_another_width_are_refused() -> None:
    check_sizes("clip-vit-l", 77, 12, model(), state())
    with pytest.raises(RepaError, match="minilm gives tokens of 384, MMDiT-S/2 takes 12"):
        check_sizes("minilm", 77, 384, model(mask_padding=True), state())


def test_another_number_of_tokens_is_refused_where_padding_is_seen() -> None:
    with pytest.raises(RepaError, match="gives 64 tokens a text, MMDiT-S/2 was trained with 77"):
        check_sizes("clip:a", 64, 12, model(), state())
    check_sizes("t5-base", 64, 12, model(mask_padding=True), state())
    check_sizes("clip:a", 64, 12, model(), state(null_context="missing"))  # nothing is known


@pytest.mark.parametrize(
    ("trained", "found", "other"),
    [("a", "a", False), ("a", "b", True), ("", "b", False), ("a", "", False), (None, "a", False)],
)
def test_weights_are_compared_where_both_are_known(trained, found, other) -> None:
    text = None if trained is None else SimpleNamespace(weights=trained)
    assert has_other_weights(found, SimpleNamespace(text=text)) is other
