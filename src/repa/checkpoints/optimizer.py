"""AdamW's state: counted by parameter in PyTorch's files, named in ours.

The release gives its optimizer all of the model's parameters, in the order in which the model's
state dict lists them. SiT's fixed position embedding is one, which is counted and has no state;
MMDiT's is a buffer and not counted (`repa.models.released.released_parameters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repa.errors import RepaError, first_line
from repa.models.released import HEADS_PREFIX, split_released_name


def optimizer_from_released(
    opt: Mapping[str, Any], names: list[str], encoder_depth: int | None, path: Path
) -> dict[str, Tensor]:
    """`{model.NAME.exp_avg: ...}` with our names, from an optimizer's state dict.

    Args:
        opt: the state dict.
        names: the release's, in the order of its parameters.
        encoder_depth: where legacy names start.
        path: the file, for messages.

    Raises:
        RepaError: if it is of another form or does not count that many parameters.
    """
    try:
        (group,) = opt["param_groups"]
        indices, state = list(group["params"]), dict(opt["state"])
        entries_of = {
            index: {name: torch.as_tensor(value) for name, value in entries.items()}
            for index, entries in state.items()
        }
        counted = set(indices)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        raise RepaError(f"{path}: its `opt` is not the state of one AdamW") from None
    if len(indices) != len(names) or not set(state) <= counted:
        raise RepaError(
            f"{path}: its optimizer counts {len(indices)} parameters, its model has {len(names)}"
        )
    out = {}
    for index, key in zip(indices, names, strict=True):
        part, name = split_released_name(key, encoder_depth)
        for entry, value in entries_of.get(index, {}).items():
            out[f"{part}.{name}.{entry}"] = value
    return out


def optimizer_to_released(
    tensors: Mapping[str, Tensor],
    names: list[str],
    param_groups: list[dict[str, Any]] | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The inverse.

    Args:
        tensors: ours, by name.
        names: the release's, in the order of its parameters.
        param_groups: of the optimizer that the state comes from; else made from the options.
        options: of the training.

    Raises:
        RepaError: if the options are needed and are none of AdamW's.
    """
    indices = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    # The step first, as AdamW has it.
    for key in sorted(tensors, key=lambda key: (not key.endswith(".step"), key)):
        name, _, entry = key.rpartition(".")
        part, _, name = name.partition(".")
        index = indices[name if part == "model" else HEADS_PREFIX + name]
        state.setdefault(index, {})[entry] = tensors[key]
    group = dict(param_groups[0]) if param_groups else _default_group(options)
    betas = group.get("betas")  # a list in JSON
    group["betas"] = tuple(betas if isinstance(betas, list) else _default_group(options)["betas"])
    group["params"] = list(range(len(names)))
    return {"state": dict(sorted(state.items())), "param_groups": [group]}


def _default_group(options: Mapping[str, Any]) -> dict[str, Any]:
    """What this version of PyTorch's AdamW says of itself with the options of the training."""
    try:
        optimizer = torch.optim.AdamW(
            [torch.zeros(1)],
            lr=options.get("learning_rate", 1e-4),
            betas=(options.get("adam_beta1", 0.9), options.get("adam_beta2", 0.999)),
            weight_decay=options.get("adam_weight_decay", 0.0),
            eps=options.get("adam_epsilon", 1e-8),
        )
    except (TypeError, ValueError) as error:
        raise RepaError(
            f"the checkpoint's options are none of AdamW's: {first_line(error)}"
        ) from None
    return optimizer.state_dict()["param_groups"][0]
