"""The state of a checkpoint that has no `state.json`: from its tensors and its script's options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from repa.autoencoders import SD_VAE_SCALE
from repa.checkpoints.architecture import Architecture, ClassArchitecture, TextArchitecture
from repa.checkpoints.null_context import CLIP_LENGTH
from repa.checkpoints.state import CheckpointState, first_problem
from repa.data.format import AutoencoderRecord
from repa.errors import RepaError

# The release's, SiT's and DiT's scripts drop labels and texts so, whatever --cfg-prob says.
DROPOUT = 0.1


def infer_state(
    architecture: Architecture, name: str, args: Mapping[str, Any], step: int, path: Path
) -> CheckpointState:
    """A state with what can be known.

    Args:
        architecture: of the tensors.
        name: of the backbone, as `create_model` takes it.
        args: options of the training script; {} where there are none.
        step: optimizer steps taken.
        path: the file, for messages.

    Raises:
        RepaError: if the channels are those of no autoencoder known here, or an option is not what
            training scripts write.
    """
    conditions: dict[str, Any] = {}
    if isinstance(architecture, ClassArchitecture):
        conditions = _class_arguments(architecture, args, path)
    elif isinstance(architecture, TextArchitecture):
        conditions = _text_arguments(architecture)
    autoencoder, resolution = _infer_autoencoder(architecture, args, path)
    try:
        return CheckpointState(
            step=step,
            model=name,
            model_arguments={
                "input_size": architecture.input_size,
                "in_channels": architecture.in_channels,
                **conditions,
                "qk_norm": architecture.qk_norm,
                "fused_attn": bool(args.get("fused_attn", True)),
            },
            autoencoder=autoencoder,
            resolution=resolution,
            classes=[],
            options=dict(args),
            scaler=None,
            versions={},
        )
    except ValidationError as error:
        raise RepaError(f"{path}: its training {first_problem(error)}") from None


def _class_arguments(
    architecture: ClassArchitecture, args: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """What SiT and DiT are told about their classes."""
    has_null = architecture.label_rows != args.get("num_classes")
    dropout = DROPOUT
    if args.get("legacy") and "cfg_prob" in args:  # its early training dropped others before
        early = args["cfg_prob"]
        if not isinstance(early, (int, float)) or not 0 <= early <= 1:
            raise RepaError(f"{path}: its option cfg_prob is {early!r}, expected 0 to 1")
        dropout = 1 - (1 - dropout) * (1 - early)
    return {
        "num_classes": architecture.label_rows - has_null,
        "class_dropout_prob": dropout if has_null else 0.0,
    }


def _text_arguments(architecture: TextArchitecture) -> dict[str, Any]:
    """What MMDiT is told about its texts: those of the release, which attends to padding too."""
    return {
        "context_dim": architecture.context_dim,
        "context_length": architecture.context_length or CLIP_LENGTH,
        "mask_padding": False,
        "context_dropout_prob": DROPOUT,
    }


def _infer_autoencoder(
    architecture: Architecture, args: Mapping[str, Any], path: Path
) -> tuple[AutoencoderRecord, int]:
    """The autoencoder and the resolution in pixels."""
    channels, side = architecture.in_channels, architecture.input_size
    shape = (channels, side, side)
    if channels == 3:
        return AutoencoderRecord(name="pixel", latent_shape=shape), side
    if channels == 4:
        vae = args.get("vae")  # an option of SiT's and DiT's scripts
        name = f"sd-vae-ft-{vae if vae in ('mse', 'ema') else 'mse'}"
        return AutoencoderRecord(name=name, scale=SD_VAE_SCALE, latent_shape=shape), 8 * side
    raise RepaError(f"{path}: {channels} channels are neither SD-VAE's (4) nor pixels (3)")
