"""Several processes preparing one dataset, started as users start them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data.preparing import Words, snapshot
from repa.cli import main

SCRIPT = """
import sys
from repa.cli import main
from repa.data import prepare

prepare.SHARD_ITEMS = 4
sys.exit(main())
"""
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
ACCELERATE = [
    "-m",
    "accelerate.commands.launch",
    "--cpu",
    "--num_processes=2",
    "--main_process_port=0",
]


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_make_what_one_makes(
    tmp_path: Path,
    write_folder: Callable[[Path, dict[str, bytes]], Path],
    mixed_files: dict[str, bytes],
    small_shards: None,
    launcher: list[str],
) -> None:
    write_folder(tmp_path / "pictures", mixed_files)
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = ["prepare", f"--source={tmp_path / 'pictures'}", "--resolution=32", "--device=cpu"]
    arguments += ["--autoencoder=pixel", "--enc-type=efficientnet-lite0", "--feature-grid=2"]
    arguments += ["--num-workers=1"]
    assert main([*arguments, f"--dest={tmp_path / 'one'}"]) == 0
    command = [sys.executable, *launcher, "script.py", *arguments, f"--dest={tmp_path / 'two'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert snapshot(tmp_path / "two") == snapshot(tmp_path / "one")
    assert done.stdout.count("10 images at 32 px, 3 classes, 3 files skipped") == 1


TEXT_SCRIPT = """
import repa.text
from data.preparing import Words

repa.text.create_text_encoder = lambda name, weights: Words(name=name)
"""


def test_two_processes_store_the_text_that_one_stores(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repa.text.create_text_encoder", lambda name, _: Words(name=name))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    (tmp_path / "script.py").write_text(TEXT_SCRIPT + SCRIPT)
    arguments = ["prepare", "--source=twemoji", "--max-images=19", "--resolution=16"]
    arguments += ["--device=cpu", "--autoencoder=pixel", "--num-workers=1"]
    arguments += ["--text-enc-type=clip-vit-l"]
    assert main([*arguments, f"--dest={tmp_path / 'one'}"]) == 0
    command = [sys.executable, *TORCHRUN, "script.py", *arguments, f"--dest={tmp_path / 'two'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert snapshot(tmp_path / "two") == snapshot(tmp_path / "one")
    assert done.stdout.count("captions cut to 4 tokens") == 1
