"""The release's state dicts, translated to ours and back.

The release keeps projection heads inside the model (`projectors.i.*`) and stores the fixed position
embedding with the weights: of SiT as a parameter, of MMDiT as a buffer. Its MMDiT does not know the
empty text's tokens (`null_context`). Older files name the blocks after `encoder_depth`
`decoder_blocks.i`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor

HEADS_PREFIX = "projectors."
LEGACY_PREFIX = "decoder_blocks."
NULL_CONTEXT = "null_context"
MMDIT_PREFIX = "joint_blocks."
MMDIT_BUFFERS = ("pos_embed", NULL_CONTEXT)


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
        ValueError: if the file has legacy names that cannot be placed: see `split_released_name`.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "heads": {}}
    for key, tensor in state.items():
        part, name = split_released_name(key, encoder_depth)
        parts[part][name] = tensor
    return parts["model"], parts["heads"]


def split_released_name(
    key: str, encoder_depth: int | None = None
) -> tuple[Literal["model", "heads"], str]:
    """One of the release's names: which part it belongs to, and its name there.

    Raises:
        ValueError: if it is a legacy name without a block's number, or `encoder_depth` is none.
    """
    if key.startswith(HEADS_PREFIX):
        return "heads", key.removeprefix(HEADS_PREFIX)
    if not key.startswith(LEGACY_PREFIX):
        return "model", key
    if not isinstance(encoder_depth, int) or encoder_depth < 0:  # it may come from a file
        raise ValueError(
            f"legacy key {key!r}: encoder_depth is needed to place it, not {encoder_depth!r}"
        )
    index, _, rest = key.removeprefix(LEGACY_PREFIX).partition(".")
    if not index.isdecimal():
        raise ValueError(f"legacy key {key!r} has no block's number")
    return "model", f"blocks.{encoder_depth + int(index)}.{rest}"


def join_released_state_dict(
    model: Mapping[str, Tensor], heads: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The inverse, in the order of the release's modules, in which its optimizer counts them.

    MMDiT's empty text is left out.

    Args:
        model: in the order of the backbone's own state dict.
        heads: in any order.
    """
    inner = {HEADS_PREFIX + key: heads[key] for key in sorted(heads, key=_place_in_heads)}
    if is_mmdit(model):  # its heads come last
        return {key: tensor for key, tensor in model.items() if key != NULL_CONTEXT} | inner
    final = {key: tensor for key, tensor in model.items() if key.startswith("final_layer.")}
    body = {key: tensor for key, tensor in model.items() if key not in final}
    return body | inner | final


def is_mmdit(names: Iterable[str]) -> bool:
    """Whether a state dict with these names is of MMDiT."""
    return any(name.startswith(MMDIT_PREFIX) for name in names)


def released_parameters(names: Iterable[str]) -> list[str]:
    """Of a released state dict's names those that its optimizer counts, in its order."""
    names = list(names)
    buffers = MMDIT_BUFFERS if is_mmdit(names) else ()
    return [name for name in names if name not in buffers]


def _place_in_heads(name: str) -> tuple[list[int], bool]:
    """Of "HEAD.LAYER.weight" or "HEAD.LAYER.bias": by number, each weight before its bias."""
    return [int(part) for part in name.split(".") if part.isdecimal()], name.endswith("bias")
