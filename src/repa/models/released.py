"""The release's state dicts, translated to ours.

The release keeps projection heads inside the model (`projectors.i.*`) and stores the fixed position
embedding with the weights. Older files name the blocks after `encoder_depth` `decoder_blocks.i`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

HEADS_PREFIX = "projectors."
LEGACY_PREFIX = "decoder_blocks."


def split_released_state_dict(
    state: Mapping[str, Tensor], encoder_depth: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Splits a released state dict into the backbone's and the projection heads'.

    Args:
        state: the release's names and tensors.
        encoder_depth: depth at which legacy `decoder_blocks` start; needed only for those files.

    Returns:
        (model, heads): state dicts for the backbone and for `repa.alignment.projection_heads`.

    Raises:
        ValueError: if the file has legacy names and no `encoder_depth` was given.
    """
    model, heads = {}, {}
    for key, tensor in state.items():
        if key.startswith(HEADS_PREFIX):
            heads[key.removeprefix(HEADS_PREFIX)] = tensor
        elif key.startswith(LEGACY_PREFIX):
            if encoder_depth is None:
                raise ValueError(f"legacy key {key!r}: encoder_depth is needed to place it")
            index, _, rest = key.removeprefix(LEGACY_PREFIX).partition(".")
            model[f"blocks.{encoder_depth + int(index)}.{rest}"] = tensor
        else:
            model[key] = tensor
    return model, heads
