"""Between images and the latents that the model is trained on: SD-VAE, or the pixels themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from repa.devices import in_slices
from repa.errors import RepaError, first_line

HUB_NAMES = {
    "sd-vae-ft-mse": "stabilityai/sd-vae-ft-mse",
    "sd-vae-ft-ema": "stabilityai/sd-vae-ft-ema",
}
FILES = ["config.json", "diffusion_pytorch_model.safetensors"]  # that are downloaded
SD_VAE_SCALE = 0.18215  # of both, as their config says
# Pixels encoded or decoded at a time, for the memory that takes: 16 images of 256 px, on a CPU one.
SLICE, CPU_SLICE = 16 * 256**2, 256**2


class Autoencoder(Protocol):
    """What the rest of the package asks of an autoencoder.

    Attributes:
        name: as `create_autoencoder` takes it.
        scale, shift: from the autoencoder's latents z to the model's, which have variance about 1:
            `(z - shift) scale`.
    """

    name: str
    scale: float
    shift: float

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """Shape (C, H, W) of the latents of images of that size; a `RepaError` if there is none."""

    def encode(self, images: Tensor) -> Tensor | None:
        """Images (N, 3, R, R) uint8 to the posterior's mean and standard deviation (N, 2 C, H, W).

        None for pixels, which are their own latents.
        """

    def decode(self, latents: Tensor) -> Tensor:
        """The model's latents (N, C, H, W) to images (N, 3, R, R) uint8."""


class Pixels:
    """No autoencoder: the model sees the pixels, scaled to [-1, 1]."""

    name = "pixel"
    scale = 1.0
    shift = 0.0

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        return (3, resolution, resolution)

    def encode(self, images: Tensor) -> None:
        return None

    def decode(self, latents: Tensor) -> Tensor:
        return to_uint8(latents)


class SDVAE:
    """Stable Diffusion's KL autoencoder through diffusers: 8 times smaller, 4 channels."""

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        from diffusers import AutoencoderKL

        is_local = name not in HUB_NAMES
        folder = str(Path(name).resolve()) if is_local else _download(name)
        try:
            vae = AutoencoderKL.from_pretrained(folder, local_files_only=True)
            lacking = [key for key, value in vae.state_dict().items() if value.is_meta]
            if lacking:
                raise ValueError(f"its weights lack {lacking[0]}")
        except Exception as error:  # diffusers' own, and what Python makes of a broken config
            raise RepaError(f"cannot load autoencoder {name}: {first_line(error)}") from None
        self.name = folder if is_local else name  # a dataset may be read from elsewhere
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(vae.config.get("shift_factor") or 0)
        is_cpu = torch.device(device).type == "cpu"
        layout = torch.channels_last if is_cpu else torch.preserve_format
        self._vae = vae.requires_grad_(False).eval().to(device, memory_format=layout)
        self._factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self._channels = int(vae.config.latent_channels)

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        side, rest = divmod(resolution, self._factor)
        if rest:
            raise RepaError(
                f"--resolution {resolution} is no multiple of {self._factor}, as {self.name} needs"
            )
        return (self._channels, side, side)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self._in_slices(self._moments, from_uint8(images), images.shape[-1])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        z = (latents / self.scale + self.shift).to(self._vae.device, self._vae.dtype)
        return self._in_slices(self._images, z, latents.shape[-1] * self._factor)

    def _moments(self, x: Tensor) -> Tensor:
        posterior = self._vae.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1)

    def _images(self, z: Tensor) -> Tensor:
        return to_uint8(self._vae.decode(z).sample)

    def _in_slices(self, half: Callable[[Tensor], Tensor], x: Tensor, side: int) -> Tensor:
        """One half of the autoencoder; `side` is that of the images in pixels."""
        cpu_size, size = (max(1, pixels // side**2) for pixels in (CPU_SLICE, SLICE))
        return in_slices(half, x, cpu_size, size)


def create_autoencoder(name: str, device: torch.device | str = "cpu") -> Autoencoder:
    """The autoencoder called `name`: "pixel", a name in `HUB_NAMES`, or a local diffusers folder.

    Raises:
        RepaError: if there is no such autoencoder or its weights cannot be had.
    """
    if name == "pixel":
        return Pixels()
    if name in HUB_NAMES or Path(name).is_dir():
        return SDVAE(name, device)
    raise RepaError(
        f"unknown autoencoder {name!r} (--autoencoder); choose pixel, {', '.join(HUB_NAMES)} "
        "or a folder in diffusers' format"
    )


def _download(name: str) -> str:
    """The folder of an autoencoder of `HUB_NAMES` in the hub's cache, downloaded if need be."""
    try:
        return snapshot_download(HUB_NAMES[name], allow_patterns=FILES)
    except Exception as error:  # the hub's client has its own and requests' errors
        raise RepaError(
            f"no weights for {name}: download of {HUB_NAMES[name]} failed ({first_line(error)}); "
            f"put its {' and '.join(FILES)} into a folder and name that as --autoencoder (--vae "
            "to sample)"
        ) from None


def from_uint8(images: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """`clamp(255 (x + 1) / 2, 0, 255)`, truncated: float about [-1, 1] to uint8."""
    return (255 * (x + 1) / 2).clamp(0, 255).to(torch.uint8)


def sample_latents(moments: Tensor, noise: Tensor, scale: float, shift: float = 0.0) -> Tensor:
    """A draw from the posterior, scaled for the model: `(mean + std n - shift) scale`.

    Args:
        moments: mean and standard deviation (N, 2 C, H, W).
        noise: standard normal n (N, C, H, W).
        scale, shift: of the autoencoder.
    """
    mean, std = moments.chunk(2, dim=1)
    return (mean + std * noise - shift) * scale
