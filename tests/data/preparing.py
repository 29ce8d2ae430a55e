"""What the tests of preparing share."""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repa.autoencoders import Pixels
from repa.data.format import Manifest
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import Item, Source, Stream
from repa.encoders import Encoder

SMALL_SHARDS = 4


class Averages(Encoder):
    """A stand-in for an encoder that costs nothing: averages of 4x4 patches.

    From call `fail_at` on it fails: a shard behind the failed one, which a thread may have begun
    by then, is not done either.
    """

    def __init__(self, fail_at: int | None = None, name: str = "averages"):
        super().__init__(name, nn.Identity(), 3, 16, 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.fail_at, self.calls = fail_at, 0

    def tokens(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise RuntimeError("the machine is on fire")
        return nn.functional.avg_pool2d(pixels, 4).flatten(2).transpose(1, 2)


class Words(nn.Module):
    """A stand-in for a text encoder: four tokens of three numbers, one a word; zeros are padding.

    The empty caption is one word, as a real encoder's special tokens are. Fails like `Averages`.
    """

    length, dim, mask_padding, fingerprint = 4, 3, True, "fedcba9876543210"

    def __init__(self, fail_at: int | None = None, name: str = "words"):
        super().__init__()
        self.name, self.fail_at, self.calls = name, fail_at, 0

    def forward(self, captions: Sequence[str]) -> Tensor:
        self.calls += 1
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise RuntimeError("the machine is on fire")
        tokens = torch.zeros(len(captions), self.length, self.dim)
        for text, caption in zip(tokens, captions, strict=True):
            for token, word in zip(text, caption.split() or [""], strict=False):
                token.copy_(torch.tensor([zlib.crc32(word.encode()) % 1000, len(word), 1]))
        return tokens

    def lengths(self, captions: Sequence[str]) -> list[int]:
        return [len(caption.split()) for caption in captions]


class Crash(BaseException):
    """What no code expects, like the end of a process."""


class Crashes:
    """Functions of which the `countdown`-th call from now on crashes; none while that is 0."""

    def __init__(self) -> None:
        self.countdown = 0

    def wrap(self, function: Callable) -> Callable:
        def wrapped(*arguments: object, **options: object) -> object:
            self.countdown -= 1
            if self.countdown == 0:
                raise Crash
            return function(*arguments, **options)

        return wrapped


def captioned_source(picture: Callable[..., bytes]) -> Source:
    """14 items, the third broken; 0 to 3 captions an image, but none in the second four."""

    def captions(i: int) -> tuple[str, ...]:
        return tuple(f"number {j} of" + f" picture-{i}" * (j + 1) for j in range(i % 4))

    items = [Item(f"{i:02d}", i % 2, () if 4 <= i < 8 else captions(i)) for i in range(14)]
    return Source("own", items, ["a", "b"], lambda n: b"" if n == "02" else picture(int(n)))


def run(
    source: Source | Stream,
    dest: Path,
    *encoders: Encoder,
    num_workers: int = 0,
    batch_size: int = 3,
    strict: bool = False,
    **options: Any,
) -> Manifest:
    """Prepares 16 px pixels, unless told otherwise."""
    arguments: dict[str, Any] = {"resolution": 16, "autoencoder": Pixels()} | options
    work = Work(batch_size=batch_size, num_workers=num_workers, strict=strict)
    return prepare(source, dest, encoders={e.name: e for e in encoders}, work=work, **arguments)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write_released_layout(folder: Path, pictures: list[bytes], latent_side: int) -> Path:
    """What the release's preprocessing leaves: PNG files, latents (8, S, S), labels 0 to 2."""
    random = np.random.default_rng(0)
    labels = []
    for i, picture in enumerate(pictures):
        image = folder / "images" / "00000" / f"img{i:08d}.png"
        latent = folder / "vae-sd" / "00000" / f"img-mean-std-{i:08d}.npy"
        for path in (image, latent):
            path.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(picture)
        mean, std = random.standard_normal((2, 4, latent_side, latent_side), dtype=np.float32)
        np.save(latent, np.concatenate([mean, np.abs(std)]))
        labels.append([f"00000/{latent.name}", i % 3])
    (folder / "images" / "dataset.json").write_text(json.dumps({"labels": None}))
    (folder / "vae-sd" / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder
