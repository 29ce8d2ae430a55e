"""A folder of golden values: REPA_GOLDEN_DIR, or the copy beside this file.

Every test takes names, configurations and seeds from the files, so any folder of the same form can
be checked. `Golden` notes which tensors were compared or fed in; a test that uses it fails if its
file holds a tensor that no one looked at.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(os.environ.get("REPA_GOLDEN_DIR") or Path(__file__).parent / "values")


class Golden:
    """One file of golden values."""

    def __init__(self, path: Path):
        self.tensors = load_file(path)
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        return self.tensors[key]

    def keys(self, prefix: str) -> Iterator[str]:
        return (key for key in self.tensors if key.startswith(prefix))

    def check(self, key: str, actual: Tensor | float, tolerance: float) -> None:
        """Relative tolerance, per value, with an absolute part for values near zero."""
        expected = self[key].double()
        assert expected.isfinite().all(), key
        actual = torch.as_tensor(actual, dtype=torch.float64).reshape(expected.shape)
        floor = tolerance * expected.square().mean().sqrt().item()
        torch.testing.assert_close(
            actual, expected, rtol=tolerance, atol=floor, msg=lambda text: f"{key}: {text}"
        )

    def assert_all_used(self) -> None:
        assert not (unused := self.tensors.keys() - self.used), f"never checked: {sorted(unused)}"
