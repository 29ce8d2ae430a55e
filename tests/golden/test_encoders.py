"""Encoders against the published ones, through the real file-loading path.

The weights are random numbers that the file's keys and shapes determine (encoders.json).
"""

import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from golden.folder import GOLDEN
from repa.encoders import ENCODERS, create_encoder

SPECS = json.loads((GOLDEN / "encoders" / "encoders.json").read_text())
COVERED = [name for name in SPECS if name.split("@")[0] in ENCODERS]

# Under which key the published file has the weights.
WRAPPERS = {"mocov3": "state_dict", "jepa": "encoder", "mae": "model"}


def random_weight(key: str, shape: list[int]) -> torch.Tensor:
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    values = generator.standard_normal(shape, dtype=np.float32)
    values *= 0.02
    if len(shape) == 1 and key.endswith((".weight", ".gamma")):
        values += 1
    return torch.from_numpy(values)


def weights_of(file_keys: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """In threads: the largest encoder has 600 million weights."""
    with ThreadPoolExecutor() as pool:
        values = pool.map(random_weight, file_keys.keys(), file_keys.values())
        return dict(zip(file_keys, values, strict=True))


def published_file(name: str, file_keys: dict[str, list[int]]) -> Any:
    state, wrapper = weights_of(file_keys), WRAPPERS.get(name.split("-")[0])
    return {wrapper: state} if wrapper else state


def test_some_encoder_is_covered() -> None:
    assert COVERED


@pytest.mark.parametrize("name", COVERED)
def test_tokens(golden_dir: Path, tmp_path: Path, name: str) -> None:
    spec = SPECS[name]
    file = tmp_path / "weights.pth"
    torch.save(published_file(name, spec["file_keys"]), file)
    encoder = create_encoder(name.split("@")[0], spec["resolution"], weights=file)
    file.unlink()  # pytest keeps its folders, and these are gigabytes
    shape = (1, 3, spec["resolution"], spec["resolution"])
    image = np.random.default_rng(spec["image_seed"]).integers(0, 256, shape, dtype=np.uint8)
    tokens = encoder(torch.from_numpy(image))
    [expected] = load_file(golden_dir / "encoders" / f"{name}.safetensors").values()
    torch.testing.assert_close(tokens, expected.float(), rtol=0, atol=1e-2)
