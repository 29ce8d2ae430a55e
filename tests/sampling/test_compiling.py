"""How often `repa sample --compile` compiles."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from repa.cli import main


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_each_of_two_sizes_is_compiled_once(run: Path, tmp_path: Path) -> None:
    """Batches of 4, 4 and 1 images, some steps with guidance and some without."""
    torch._dynamo.reset()
    counters.clear()
    arguments = [f"--ckpt={run}", "--device=cpu", "--num-fid-samples=9", "--per-proc-batch-size=4"]
    arguments += ["--mode=sde", "--num-steps=5", "--cfg-scale=1.5", "--guidance-high=0.7"]
    drawn = []
    for name, options in (("plain", []), ("compiled", ["--compile"])):
        assert main(["sample", f"--sample-dir={tmp_path / name}", *arguments, *options]) == 0
        with np.load(tmp_path / f"{name}.npz") as archive:
            drawn.append(archive["arr_0"].astype(int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
