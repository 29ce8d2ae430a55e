"""SiT or DiT: their files have the same tensors, so something else must tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repa.checkpoints.architecture import Architecture
from repa.checkpoints.own_sit import PATH_NAMES
from repa.errors import RepaError
from repa.models import FAMILIES, MODEL_NAMES


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
    """The family by what is said of the file: an argument, its options, its name, in this order.

    Raises:
        RepaError: if argument and options contradict each other, or nothing tells.
    """
    trained_as = str(args.get("model", ""))
    said = trained_as.partition("-")[0]
    if model is not None:
        if said in FAMILIES and said != family_of(model):
            raise RepaError(f"--model {model}: {path} was trained as {trained_as}")
        return family_of(model)
    if said in FAMILIES:
        return said
    if not architecture.learns_sigma:
        return "SiT"
    # As words of their own: not in "condition" or "site".
    in_name = [f for f in FAMILIES if re.search(rf"(?i)(?<![a-z]){f}(?![a-z])", path.name)]
    if len(in_name) == 1:
        return in_name[0]
    choices = " or ".join(f"--model {architecture.name(f, path)}" for f in FAMILIES)
    raise RepaError(f"{path} may be SiT's or DiT's own, whose tensors look alike: give {choices}")


def is_own_sit(architecture: Architecture, args: Mapping[str, Any]) -> bool:
    """Whether a SiT is by SiT's own code, whose time runs the other way, and not by REPA's.

    Its published models predict a variance too, and its training options call the paths so.
    """
    return architecture.learns_sigma or args.get("path_type") in PATH_NAMES
