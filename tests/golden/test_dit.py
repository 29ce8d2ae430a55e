"""DiT against the published implementation."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from golden.folder import GOLDEN, Golden
from repa.models import DiT

NAMES = [name for name in json.loads((GOLDEN / "configs.json").read_text()) if "mmdit" not in name]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("dit")])
@torch.no_grad()
def test_dit(golden_dir: Path, name: str) -> None:
    config = json.loads((golden_dir / "configs.json").read_text())[name]
    model = DiT(**config).eval()
    fixed_positions = model.pos_embed.clone()
    model.load_state_dict(load_file(golden_dir / f"{name}.weights.safetensors"))
    torch.testing.assert_close(model.pos_embed, fixed_positions, rtol=0, atol=1e-6)

    golden = Golden(golden_dir / f"{name}.safetensors")
    assert not golden["t"].is_floating_point() or golden["t"].max() > 1, "times are steps"
    prediction = model(golden["x"], golden["t"], golden["y"])
    assert prediction.shape[1] == 2 * config["in_channels"]
    golden.check("prediction", prediction, 2e-5)
