"""Backbones by name: `create_model("SiT-XL/2", input_size=32)`."""

from __future__ import annotations

from typing import Any

from repa.errors import RepaError
from repa.models.backbone import Backbone
from repa.models.dit import DiT
from repa.models.mmdit import SIZES as MMDIT_SIZES
from repa.models.mmdit import MMDiT
from repa.models.sit import SiT
from repa.models.transformer import SIZES, Transformer

PATCH_SIZES = (2, 4, 8)

# family: (class, sizes). A new backbone is one file and one line here.
Family = type[SiT] | type[DiT] | type[MMDiT]
FAMILIES: dict[str, tuple[Family, dict[str, tuple[int, int, int]]]] = {
    "SiT": (SiT, SIZES),
    "DiT": (DiT, SIZES),
    "MMDiT": (MMDiT, MMDIT_SIZES),
}

MODEL_NAMES = tuple(
    f"{family}-{size}/{patch}"
    for family, (_, sizes) in FAMILIES.items()
    for size in sizes
    for patch in PATCH_SIZES
)


def create_model(name: str, **arguments: Any) -> Backbone:
    """The backbone called `name`, such as "SiT-XL/2", with random weights.

    Args:
        name: one of `MODEL_NAMES`: family, size and patch size.
        arguments: further constructor arguments, such as `input_size` and `num_classes`.

    Raises:
        RepaError: if there is no such model.
    """
    if name not in MODEL_NAMES:
        raise RepaError(f"unknown model {name!r} (--model); choose from {', '.join(MODEL_NAMES)}")
    family, _, variant = name.partition("-")
    size, _, patch = variant.partition("/")
    model_class, sizes = FAMILIES[family]
    depth, hidden_size, num_heads = sizes[size]
    return model_class(
        patch_size=int(patch),
        depth=depth,
        hidden_size=hidden_size,
        num_heads=num_heads,
        **arguments,
    )


__all__ = [
    "FAMILIES",
    "MODEL_NAMES",
    "Backbone",
    "DiT",
    "MMDiT",
    "SiT",
    "Transformer",
    "create_model",
]
