"""From a loader's arrays to a training batch on the device: latents sampled, targets computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from repa.autoencoders import from_uint8, sample_latents
from repa.data.features import unpack_features
from repa.data.format import Manifest
from repa.data.prepared import feature_keys
from repa.encoders import Encoder, resample_tokens
from repa.text import TextEncoder
from repa.training.module import Batch


class BatchMaker:
    """Moves arrays to the device and turns them into a `Batch`.

    Args:
        manifest: of the dataset.
        encoder_names: target encoders in order. Those that the dataset has cached are read from
            it, the others computed.
        encoders: the encoders to compute, by name.
        grid_size: tokens a side of the backbone.
        device: of the batch.
        normalizations: what is done to the tokens, by encoder; those of others stay as they are.
        text_encoder: of captions whose tokens are not stored.
    """

    def __init__(
        self,
        manifest: Manifest,
        encoder_names: list[str],
        encoders: Mapping[str, Encoder],
        grid_size: int,
        device: torch.device,
        normalizations: Mapping[str, Callable[[Tensor], Tensor]],
        text_encoder: TextEncoder | None = None,
    ):
        self.autoencoder = manifest.autoencoder
        self.encoder_names = encoder_names
        self.encoders = encoders
        self.grid_size = grid_size
        self.device = device
        self.normalizations = normalizations
        self.text_encoder = text_encoder
        pixels = self.autoencoder.name == "pixel"
        self.keys = {"label", "image" if pixels else "latent"}
        if encoders:
            self.keys.add("image")
        for name in encoder_names:
            if name not in encoders:
                self.keys |= set(feature_keys(manifest, name))

    def __call__(self, arrays: Mapping[str, Any]) -> Batch:
        moved = {
            key: array.to(self.device, non_blocking=True)
            for key, array in arrays.items()
            if isinstance(array, Tensor)
        }
        if "latent" in moved:
            noise = moved["posterior_noise"]
            scale, shift = self.autoencoder.scale, self.autoencoder.shift
            x = sample_latents(moved["latent"], noise, scale, shift)
        else:
            x = from_uint8(moved["image"])
        return Batch(
            x=x,
            y=self._condition(arrays, moved),
            noise=moved["noise"],
            time_uniform=moved["time_uniform"],
            drop_uniform=moved["drop_uniform"],
            targets=list(self._targets(moved)),
        )

    def _condition(self, arrays: Mapping[str, Any], moved: Mapping[str, Tensor]) -> Tensor:
        """Texts (N, L, D) where there are some, else labels (N,)."""
        if self.text_encoder is not None:
            return self.text_encoder(arrays["captions"])
        return moved["context"].float() if "context" in moved else moved["label"]

    def _targets(self, arrays: Mapping[str, Tensor]) -> Iterator[Tensor]:
        for name in self.encoder_names:
            if name in self.encoders:
                tokens = self.encoders[name](arrays["image"])
            else:
                tokens = resample_tokens(unpack_features(name, arrays), self.grid_size)
            normalize = self.normalizations.get(name)
            yield normalize(tokens) if normalize else tokens
