"""The state of a checkpoint that has no `state.json`: from its tensors and its script's options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from repa.autoencoders import SD_VAE_SCALE
from repa.checkpoints.architecture import Architecture
from repa.checkpoints.folder import CheckpointState, first_problem
from repa.data.format import AutoencoderRecord
from repa.errors import RepaError


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
    has_null = architecture.label_rows != args.get("num_classes")
    dropout = 0.1  # the release's, SiT's and DiT's models drop labels so, whatever --cfg-prob says
    if args.get("legacy") and "cfg_prob" in args:  # its early training dropped others before
        early = args["cfg_prob"]
        if not isinstance(early, (int, float)) or not 0 <= early <= 1:
            raise RepaError(f"{path}: its option cfg_prob is {early!r}, expected 0 to 1")
        dropout = 1 - (1 - dropout) * (1 - early)
    autoencoder, resolution = _infer_autoencoder(architecture, args, path)
    try:
        return CheckpointState(
            step=step,
            model=name,
            model_arguments={
                "input_size": architecture.input_size,
                "in_channels": architecture.in_channels,
                "num_classes": architecture.label_rows - has_null,
                "class_dropout_prob": dropout if has_null else 0.0,
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
