"""Reading a prepared dataset: random access by memory mapping, no per-image file."""

from __future__ import annotations

import bisect
import itertools
import json
from pathlib import Path

import numpy as np
import torch

from repa.data.format import FEATURES, Manifest, read_manifest
from repa.errors import RepaError


class PreparedDataset:
    """A prepared dataset as a sequence of {array name: value}.

    Item i has `image` (3, R, R) uint8, `label` int64, `latent` (2 C, H, W) float32 unless the
    dataset is of pixels, and `features.NAME` (T, D) float16 for each cached encoder. Arrays are
    views of the mapped files: copy before writing.

    Args:
        folder: what `repa prepare` wrote.

    Raises:
        RepaError: if there is no complete dataset in it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise RepaError(f"no prepared dataset in {folder}: make one with `repa prepare --dest`")
        if not manifest.complete:
            raise RepaError(f"{folder} is not finished: run the same `repa prepare` again")
        if manifest.num_images == 0:
            raise RepaError(f"damaged dataset: {folder}: the manifest counts no images")
        self.manifest: Manifest = manifest
        self._ends = list(itertools.accumulate(shard.images for shard in manifest.shards))
        self._shards: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        shard, row = self._locate(index)
        return {name: array[row] for name, array in self._arrays(shard).items()}

    @property
    def num_classes(self) -> int:
        """Classes of the source."""
        return len(self.manifest.classes)

    @property
    def labels(self) -> np.ndarray:
        """All labels (N,), int64."""
        filled = (i for i, shard in enumerate(self.manifest.shards) if shard.images)
        return np.concatenate([self._arrays(i)["label"] for i in filled])

    def images(self, indices: list[int] | range) -> np.ndarray:
        """The images at `indices`: (n, 3, R, R), uint8."""
        return np.stack([self[i]["image"] for i in indices])

    def captions(self, index: int) -> list[str]:
        """The captions of one image; empty if the source had none."""
        shard, row = self._locate(index)
        if "captions.json" not in self.manifest.shards[shard].sha256:
            return []
        path = self._shard_folder(shard) / "captions.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))[row]
        except (OSError, ValueError, LookupError) as error:
            raise RepaError(f"damaged dataset: {path}: {error}") from None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_shards": {}}  # a worker maps the files for itself

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _shard_folder(self, shard: int) -> Path:
        return self.folder / "shards" / self.manifest.shards[shard].name

    def _arrays(self, shard: int) -> dict[str, np.ndarray]:
        if shard not in self._shards:
            folder = self._shard_folder(shard)
            names = {"images": "image", "labels": "label", "latents": "latent"}
            names |= {FEATURES + name: FEATURES + name for name in self.manifest.features}
            try:
                arrays = {
                    key: _map(folder / f"{name}.npy")
                    for name, key in names.items()
                    if name != "latents" or self.manifest.autoencoder.name != "pixel"
                }
                rows = {len(array) for array in arrays.values()}
            except Exception as error:  # whatever numpy makes of broken bytes
                raise RepaError(f"damaged dataset: {folder}: {error}") from None
            if rows != {self.manifest.shards[shard].images}:
                raise RepaError(
                    f"damaged dataset: {folder}: lengths {rows} do not fit the manifest"
                )
            self._shards[shard] = arrays
        return self._shards[shard]


def _map(path: Path) -> np.ndarray:
    """The array in an .npy file, mapped for reading.

    numpy's own mapping keeps its file open, and the shards of ImageNet are more files than a
    process may have open (1024 by default); torch's does not.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)  # checks the file, finds the offset
    size = array.offset + array.nbytes
    mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    result = mapped[array.offset :].view(array.dtype).reshape(array.shape)
    result.flags.writeable = False
    return result
