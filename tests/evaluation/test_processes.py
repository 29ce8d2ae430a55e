"""Several processes evaluating together, started as users start them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from repa.cli import main
from repa.data import PreparedDataset
from repa.evaluation.networks import NETWORKS

SCRIPT = """
import sys
import torch
from accelerate import PartialState
from repa.cli import main
from repa.evaluation.extract import gather
from repa.evaluation.networks import Features
from repa.processes import gather_rows

state = PartialState(cpu=True)
for lengths in ([3, 2], [0, 5], [5, 0]):
    start = sum(lengths[: state.process_index])
    rows = torch.arange(start, start + lengths[state.process_index]).float()[:, None].expand(-1, 4)
    everything = gather(Features(rows, probabilities=rows * 2))
    assert everything.features[:, 1].tolist() == [0, 1, 2, 3, 4], everything.features
    assert everything.probabilities.tolist() == (everything.features * 2).tolist()
    assert everything.spatial is None
    cubes = gather_rows(rows.long()[:, :, None].expand(-1, 4, 3))
    assert cubes.shape == (5, 4, 3) and cubes.dtype == torch.int64
    assert cubes[:, 3, 2].tolist() == [0, 1, 2, 3, 4], cubes
    print("gathered")
sys.exit(main())
"""


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    return subprocess.run(
        [sys.executable, *launcher, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_two_processes_find_what_one_finds(
    tmp_path: Path, emoji_dir: Path, emoji: PreparedDataset
) -> None:
    images = emoji.images(range(1, 64, 3)).transpose(0, 2, 3, 1)
    np.savez_compressed(tmp_path / "samples.npz", images)
    arguments = ["evaluate", f"--samples={tmp_path / 'samples.npz'}", f"--reference={emoji_dir}"]
    arguments += ["--network=efficientnet-lite0", "--device=cpu", "--batch-size=9"]
    one_of = (f"--output={tmp_path / 'one.json'}", f"--nearest={tmp_path / 'one.png'}")
    assert main([*arguments, *one_of]) == 0
    (tmp_path / "script.py").write_text(SCRIPT)
    targets = ("--output=two.json", "--save-stats=two.npz", "--nearest=two.png")
    done = torchrun(tmp_path, "script.py", *arguments, *targets)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("gathered") == 6  # shares of any length
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    for name in NETWORKS["efficientnet-lite0"].metrics:
        assert two.pop(name) == pytest.approx(one.pop(name), rel=1e-4, abs=1e-5)
    assert two == one
    assert (one["memorized"], one["nearest_distance"]) == (1, 0)  # they are of the reference
    assert (tmp_path / "two.png").read_bytes() == (tmp_path / "one.png").read_bytes()
    assert done.stdout.count("network  ") == 1
    with np.load(tmp_path / "two.npz") as stats:
        assert stats["features"].shape == (64, 1280)
        assert np.isfinite(stats["features"]).all()
        assert torch.from_numpy(stats["features"]).std(0).mean() > 0.01


def test_an_error_of_one_process_ends_all(tmp_path: Path, emoji_dir: Path) -> None:
    """The damage lies in the first process's share; the last one finds it."""
    np.savez(tmp_path / "x.npz", np.zeros((24, 32, 32, 3), np.uint8))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[6000] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    arguments = ["evaluate", "--samples=x.npz", f"--reference={emoji_dir}", "--device=cpu"]
    done = torchrun(tmp_path, "-m", "repa.cli", *arguments, "--network=efficientnet-lite0")
    assert done.returncode != 0
    assert "repa evaluate: error: x.npz: no readable npz with arr_0: Bad CRC-32" in done.stderr
