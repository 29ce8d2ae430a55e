from types import SimpleNamespace

import pytest

from repa.errors import RepaError
from repa.sampling.prompts import _check


@pytest.mark.parametrize("weights", ["", "0123"])
def test_tokens_of_another_width_are_refused_whatever_is_known_of_their_weights(weights) -> None:
    state = SimpleNamespace(model="MMDiT-S/2", model_arguments={"context_dim": 768}, text=None)
    _check("clip-vit-l", 768, weights, state)
    with pytest.raises(RepaError, match="minilm gives tokens of 384, MMDiT-S/2 takes 768"):
        _check("minilm", 384, weights, state)
