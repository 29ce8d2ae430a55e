"""Which family: MMDiT's files have tensors of their own, but SiT's and DiT's have the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repa.checkpoints.architecture import Architecture, TextArchitecture
from repa.checkpoints.own_sit import PATH_NAMES
from repa.errors import RepaError
from repa.models import FAMILIES, MODEL_NAMES, Transformer

CLASS_FAMILIES = [f for f, (backbone, _) in FAMILIES.items() if issubclass(backbone, Transformer)]


def family_of(name: str) -> str:
    """The family of a model's name.

    Raises:
        RepaError: if there is no such model.
    """
    if name not in MODEL_NAMES:
        raise RepaError(f"unknown model {name!r} (--model); choose from {', '.join(MODEL_NAMES)}")
    return name.partition("-")[0]


def pick_family(
    architecture: Architecture, args: Mapping[str, Any], path: Path, model: str | None
) -> str:
    """The family: MMDiT's tensors tell it; of the others an argument, the options, the file's name.

    Raises:
        RepaError: if argument and options or tensors contradict each other, or nothing tells.
    """
    if isinstance(architecture, TextArchitecture):
        return "MMDiT"
    if model is not None and family_of(model) not in CLASS_FAMILIES:
        raise RepaError(f"--model {model}: {path} holds a {' or '.join(CLASS_FAMILIES)}")
    trained_as = str(args.get("model", ""))
    said = trained_as.partition("-")[0]
    if model is not None:
        if said in CLASS_FAMILIES and said != family_of(model):
            raise RepaError(f"--model {model}: {path} was trained as {trained_as}")
        return family_of(model)
    if said in CLASS_FAMILIES:
        return said
    if not architecture.learns_sigma:
        return "SiT"
    # As words of their own: not in "condition" or "site".
    in_name = [f for f in CLASS_FAMILIES if re.search(rf"(?i)(?<![a-z]){f}(?![a-z])", path.name)]
    if len(in_name) == 1:
        return in_name[0]
    choices = " or ".join(f"--model {architecture.name(f, path)}" for f in CLASS_FAMILIES)
    raise RepaError(f"{path} may be SiT's or DiT's own, whose tensors look alike: give {choices}")


def check_heads(architecture: Architecture, name: str, said: Any, path: Path) -> None:
    """Whether the release's MMDiT of these sizes is the named one: it has one head a block.

    Its tensors do not tell how many heads it has. Not checked where the model's name was said, or
    with the empty text's tokens in the file, which is not the release's then.

    Args:
        architecture: of the tensors.
        name: of the model that fits them.
        said: the model's name, where an argument or the options say it.
        path: the file, for messages.

    Raises:
        RepaError: if the named one has another number.
    """
    if not isinstance(architecture, TextArchitecture) or said == name or architecture.qk_norm:
        return
    heads = size_of(name)[2]
    if architecture.context_length is None and heads != architecture.depth:
        raise RepaError(
            f"{path}: with the release's {architecture.depth} heads, one a block, it is no MMDiT "
            f"with a name; if it has {heads}, give --model {name}"
        )


def size_of(name: str) -> tuple[int, int, int]:
    """Blocks, width and heads of a named model.

    Raises:
        RepaError: if there is no such model.
    """
    return FAMILIES[family_of(name)][1][name.partition("-")[2].partition("/")[0]]


def is_own_sit(architecture: Architecture, args: Mapping[str, Any]) -> bool:
    """Whether a SiT is by SiT's own code, whose time runs the other way, and not by REPA's.

    Its published models predict a variance too, and its training options call the paths so.
    """
    return architecture.learns_sigma or args.get("path_type") in PATH_NAMES
