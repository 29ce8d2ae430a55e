"""Names of the release's state dicts and of ours."""

import random

import torch

from repa.models.released import join_released_state_dict, split_released_state_dict

NAMES = [
    "pos_embed", "x_embedder.proj.weight", "blocks.0.mlp.fc1.bias", "blocks.1.mlp.fc1.bias",
    *(f"projectors.{head}.{layer}.{kind}"
      for head in range(11) for layer in (0, 2, 4) for kind in ("weight", "bias")),
    "final_layer.linear.weight", "final_layer.adaLN_modulation.1.bias",
]  # fmt: skip
STATE = {name: torch.tensor(i) for i, name in enumerate(NAMES)}


def test_heads_are_split_off_and_joined_in_the_releases_order() -> None:
    model, heads = split_released_state_dict(STATE)
    assert list(model) == [name for name in NAMES if not name.startswith("projectors.")]
    assert heads["10.4.bias"] is STATE["projectors.10.4.bias"]
    shuffled = random.Random(0).sample(list(heads), len(heads))
    joined = join_released_state_dict(model, {name: heads[name] for name in shuffled})
    assert list(joined) == NAMES
    assert all(joined[name] is STATE[name] for name in NAMES)


def test_without_heads() -> None:
    model, _ = split_released_state_dict(STATE)
    assert join_released_state_dict(model, {}) == model


def test_early_names_count_blocks_from_the_encoder_depth() -> None:
    early = {"blocks.1.a": STATE["pos_embed"], "decoder_blocks.10.a.b": STATE["pos_embed"]}
    assert list(split_released_state_dict(early, 8)[0]) == ["blocks.1.a", "blocks.18.a.b"]
