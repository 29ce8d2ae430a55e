"""What the tests of preparing share."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from repa.autoencoders import Pixels
from repa.data.format import Manifest
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import Source, Stream
from repa.encoders import Encoder

SMALL_SHARDS = 4


class Averages(Encoder):
    """A stand-in for an encoder that costs nothing: averages of 4x4 patches."""

    def __init__(self, fail_at: int = -1, name: str = "averages"):
        super().__init__(name, nn.Identity(), 3, 16, 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.fail_at, self.calls = fail_at, 0

    def tokens(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("the machine is on fire")
        return nn.functional.avg_pool2d(pixels, 4).flatten(2).transpose(1, 2)


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
