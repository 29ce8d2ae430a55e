"""Small runs on real images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repa.config import TrainOptions


@pytest.fixture
def options(emoji_dir: Path, tmp_path: Path):
    """`options(name=value, ...)`: those of four steps on 64 emoji."""

    def make(**changes) -> TrainOptions:
        values = {
            "exp_name": "run",
            "output_dir": tmp_path,
            "data_dir": emoji_dir,
            "model": "SiT-Ti/8",
            "enc_type": "efficientnet-lite0",
            "encoder_depth": 2,
            "projector_dim": 32,
            "max_train_steps": 4,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "ema_decay": 0.9,
            "mixed_precision": "no",
            "device": "cpu",
            "report_to": "none",
            "logging_steps": 1,
            "checkpointing_steps": 2,
        }
        return TrainOptions.model_validate(values | changes)

    return make


@pytest.fixture
def launch():
    """Trains on two processes, as a user would start them; returns the run's folder."""

    def start(options: TrainOptions) -> Path:
        arguments = [
            part
            for key, value in options.model_dump(mode="json").items()
            if value is not None and not isinstance(value, bool)
            for part in (
                f"--{key.replace('_', '-')}",
                *map(str, value if isinstance(value, list) else [value]),
            )
        ]
        arguments += ["--fsdp"] if options.fsdp else []
        script = Path(__file__).parents[2] / "train.py"
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
             str(script), *arguments],
            check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return options.output_dir / options.exp_name

    return start
