"""Files of the REPA release, and of SiT and DiT, to our parts.

A training checkpoint of the release is `{model, ema, opt, args, steps}`; its published checkpoint
is the averaged state dict alone. SiT's and DiT's files have the same two forms, without `steps`.
`repa.checkpoints.write_released` is the way back.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repa.checkpoints.architecture import (
    NOT_OURS,
    Architecture,
    TextArchitecture,
    infer_architecture,
)
from repa.checkpoints.families import check_heads, is_own_sit, pick_family
from repa.checkpoints.fit import is_plain
from repa.checkpoints.folder import LazyParts, Parts
from repa.checkpoints.foreign import infer_state
from repa.checkpoints.null_context import MISSING, FilledParts
from repa.checkpoints.optimizer import optimizer_from_released
from repa.checkpoints.own_sit import own_sit_path, translate_own_sit
from repa.checkpoints.state import CheckpointState, ReleasedRecord, parse_state
from repa.data.format import MAX_COUNT
from repa.errors import RepaError, first_line
from repa.models.released import NULL_CONTEXT, released_parameters, split_released_state_dict
from repa.weights import check_bytes, read_weights

OURS = "repa"  # what our files have besides the release's entries, to come back without loss
Opened = tuple[CheckpointState, Parts, ReleasedRecord | None]


def open_released(
    path: Path,
    encoder_depth: int | None = None,
    model: str | None = None,
    with_optimizer: bool = True,
) -> Opened:
    """What a file holds: state, parts, and what else it says.

    Args:
        path: the file.
        encoder_depth: for legacy names, if the file's options do not say it.
        model: the backbone's name, checked against the file.
        with_optimizer: its state, too; without, it may be anything.

    Raises:
        RepaError: if the file is unsafe, broken, of something else, or needs an argument.
    """
    content = read_weights(path)
    args = _plain_arguments(content.get("args"))
    depth = args.get("encoder_depth")
    depth = encoder_depth if depth is None else depth
    bare = not any(isinstance(content.get(key), Mapping) for key in ("model", "ema"))
    parts = _split_parts({"ema": content} if bare else content, depth, with_optimizer, path)
    if OURS in content:
        opened = _opened_ours(content[OURS], parts, path)
        if model not in (None, opened[0].model):
            raise RepaError(f"--model {model}: {path} holds {opened[0].model}")
        return opened

    architecture = infer_architecture(parts["ema" if "ema" in parts else "model"], path)
    family = pick_family(architecture, args, path, model)
    name = architecture.name(family, path)
    if model not in (None, name):
        raise RepaError(f"--model {model}: {path} holds {name}")
    check_heads(architecture, name, args.get("model") if model is None else model, path)
    record: ReleasedRecord | None = ReleasedRecord(bare=bare, args=args or None)
    turned = family == "SiT" and is_own_sit(architecture, args)
    if turned:
        args |= {"path_type": own_sit_path(args, path), "prediction": "v"}
        _turn_own_sit(parts, architecture, name, path)
        record = None  # what would be written again is the translated model
    elif any(NULL_CONTEXT in tensors for tensors in parts.values()):
        record = None  # no file of the release, which has no place for it
    elif "optimizer" in parts and record is not None:
        groups = content["opt"]["param_groups"]
        record.param_groups = [
            {str(k): _plain(v) for k, v in g.items() if k != "params"} for g in groups
        ]
    if _are_equal(parts.get("heads"), parts.get("ema_heads")):
        del parts["ema_heads"]
    state = infer_state(architecture, name, args, _step(content, path), path)
    if depth is not None:
        state.options["encoder_depth"] = depth
    present = _present(parts)
    # What was translated was checked before, and is not what the file has checksums of.
    opened_parts = present if turned else FileParts(path, present)
    if isinstance(architecture, TextArchitecture) and record is not None:
        state.options[NULL_CONTEXT] = MISSING
        sizes = (state.model_arguments[key] for key in ("context_length", "context_dim"))
        opened_parts = FilledParts(opened_parts, torch.zeros(*sizes))
    return state, opened_parts, record


def _plain_arguments(args: Any) -> dict[str, Any]:
    """A script's options as JSON has them; {} where there are none."""
    if isinstance(args, argparse.Namespace):
        args = vars(args)
    return _plain(args) if isinstance(args, dict) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor) and is_plain(value) and value.numel() == 1:
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _split_parts(
    content: Mapping[str, Any], depth: int | None, with_optimizer: bool, path: Path
) -> dict[str, dict[str, Tensor]]:
    """A training checkpoint's tensors by part, with our names."""
    parts: dict[str, dict[str, Tensor]] = {}
    for part, heads in (("model", "heads"), ("ema", "ema_heads")):
        if content.get(part) is not None:
            parts[part], parts[heads] = _split(content[part], depth, path)
    if with_optimizer and "model" in parts and content.get("opt") is not None:
        names = released_parameters(content["model"])
        parts["optimizer"] = optimizer_from_released(content["opt"], names, depth, path)
        check_bytes(path, _tensors_in(content["opt"]))  # some of the part's are made anew
    return parts


def _split(
    state: Any, depth: int | None, path: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    if not isinstance(state, Mapping):
        raise RepaError(f"{path} {NOT_OURS}: its weights are a {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str):
            raise RepaError(f"{path} {NOT_OURS}: the name {key!r} is not a string")
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise RepaError(f"{path} {NOT_OURS}: {key!r} is a {kind}, not a tensor")
        if not is_plain(value):
            raise RepaError(f"{path} {NOT_OURS}: {key!r} is sparse or has no values")
    try:
        return split_released_state_dict(state, depth)
    except ValueError as error:
        if depth is not None:
            raise RepaError(f"{path}: {error}") from None
        raise RepaError(
            f"{path} has early names (decoder_blocks.i) and does not say from which block on: "
            "give --encoder-depth, as it was trained (8 by default)"
        ) from None


def _turn_own_sit(
    parts: dict[str, dict[str, Tensor]], architecture: Architecture, name: str, path: Path
) -> None:
    """Weights and averages of SiT's own, in our direction of time; its optimizer is left out."""
    for part in parts.keys() & {"model", "ema"}:
        check_bytes(path, parts[part].values())
        try:
            parts[part] = translate_own_sit(
                parts[part], architecture.in_channels, architecture.patch_size
            )
        except (KeyError, RuntimeError, IndexError) as error:
            raise RepaError(f"{path} does not fit SiT's {name}: {first_line(error)}") from None
    parts.pop("optimizer", None)  # its moments are of the weights as they were


def _opened_ours(ours: Any, parts: dict[str, dict[str, Tensor]], path: Path) -> Opened:
    """What `repa.checkpoints.write_released` was given."""
    try:
        text, has_ema_heads = str(ours["state"]), bool(ours["ema_heads"])
        for part, tokens in ours.get(NULL_CONTEXT, {}).items():
            if not is_plain(tokens):
                raise TypeError("sparse or without values")
            parts[part][NULL_CONTEXT] = tokens
    except (AttributeError, KeyError, TypeError):
        raise RepaError(f"damaged checkpoint {path}: its {OURS!r} entry is not ours") from None
    if not has_ema_heads:
        heads = parts.pop("ema_heads", {})
        parts.setdefault("heads", heads)
    return parse_state(text, str(path)), FileParts(path, _present(parts)), None


def _step(content: Mapping[str, Any], path: Path) -> int:
    """As the release says it; SiT and DiT say it in the file's name only."""
    step = _plain(content.get("steps"))
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if isinstance(step, str) and re.fullmatch(r"\d{1,18}", step):
        step = int(step)
    if type(step) is int and 0 <= step <= MAX_COUNT:  # a bool is none
        return step
    return int(path.stem) if re.fullmatch(r"\d{1,18}", path.stem) else 0


def _present(parts: Parts) -> Parts:
    return {part: tensors for part, tensors in parts.items() if tensors}


def _are_equal(one: Mapping[str, Tensor] | None, other: Mapping[str, Tensor] | None) -> bool:
    if not one or not other or one.keys() != other.keys():
        return False
    return all(
        tensor.dtype == other[key].dtype and torch.equal(tensor, other[key])
        for key, tensor in one.items()
    )


def _tensors_in(opt: Mapping[str, Any]) -> list[Tensor]:
    """Those of an optimizer's state dict."""
    values = [value for entries in opt["state"].values() for value in entries.values()]
    return [value for value in values if isinstance(value, Tensor) and is_plain(value)]


class FileParts(LazyParts):
    """A file's tensors by part, whose bytes are checked when they are asked for.

    Args:
        path: the file.
        parts: what was read from it; the optimizer's was checked.
    """

    def __init__(self, path: Path, parts: Parts):
        super().__init__(parts)
        self._path = path
        self._checked = {"optimizer"}

    def __getitem__(self, part: str) -> Mapping[str, Tensor]:
        tensors = self._parts[part]
        if part not in self._checked:
            check_bytes(self._path, tensors.values())
            self._checked.add(part)
        return tensors
