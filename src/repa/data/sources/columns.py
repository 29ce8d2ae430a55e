"""Which columns of a Hugging Face dataset hold the images, labels and captions."""

from __future__ import annotations

import re
from typing import Any

from repa.data.sources.base import Columns
from repa.errors import RepaError

NAMES = {
    "image": ("image", "img", "jpg", "jpeg", "png", "webp"),
    "label": ("label", "labels", "fine_label", "cls"),
    "caption": ("caption", "captions", "text", "txt"),
}
CERTAIN = {"image": "Image", "label": "ClassLabel"}  # types that need no usual name
FITTING = {
    "image": re.compile(r"Image|(large_)?binary|binary_view"),
    "label": re.compile(r"ClassLabel|u?int\d+|(large_)?string|string_view"),
    "caption": re.compile(r"(list of )?((large_)?string|string_view)"),
}


def find_columns(
    source: str, types: dict[str, str], columns: Columns
) -> tuple[str, str | None, str | None]:
    """The columns of images, labels and captions; None where there is none.

    Args:
        source: name of the dataset, for errors.
        types: every column's type, as `type_name` tells it.
        columns: the user's choice. What it leaves open is found by name and type.

    Raises:
        RepaError: if a chosen column is not there or of the wrong type, no column holds images, or
            several might.
    """
    image = _find("image", columns.image, source, types)
    if image is None:
        raise RepaError(f"no column of {source} holds images; it has {_listing(types)}")
    label = _find("label", columns.label, source, types)
    return image, label, _find("caption", columns.caption, source, types)


def type_name(feature: Any) -> str:
    """A feature's type in a word or three, such as Image, ClassLabel, int64, list of string."""
    inner = getattr(feature, "feature", None)
    if isinstance(feature, list) and feature:  # how older versions write it
        inner = feature[0]
    if inner is not None:
        return f"list of {type_name(inner)}"
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind


def _find(kind: str, chosen: str | None, source: str, types: dict[str, str]) -> str | None:
    fitting = [name for name, type_ in types.items() if FITTING[kind].fullmatch(type_)]
    if chosen is not None:
        if chosen not in fitting:
            raise RepaError(f"{source} has no {kind} column {chosen}; it has {_listing(types)}")
        return chosen
    for name in NAMES[kind]:
        if name in fitting:
            return name
    certain = [name for name in fitting if types[name] == CERTAIN.get(kind)]
    if len(certain) > 1:
        raise RepaError(
            f"{source} has several {kind} columns, {', '.join(certain)}: "
            f"choose one with --{kind}-column"
        )
    return certain[0] if certain else None


def _listing(types: dict[str, str]) -> str:
    return ", ".join(f"{name} ({type_})" for name, type_ in types.items()) or "no column"
