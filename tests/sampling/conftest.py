from pathlib import Path

import pytest

from repa.config import TrainOptions
from repa.training import train


@pytest.fixture(scope="session")
def run(emoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps on pixels, 9 classes."""
    return train(
        TrainOptions(
            exp_name="run",
            output_dir=tmp_path_factory.mktemp("runs"),
            data_dir=emoji_dir,
            model="SiT-Ti/8",
            enc_type="none",
            max_train_steps=6,
            batch_size=8,
            learning_rate=3e-3,  # so that six steps leave the zeros of initialization
            ema_decay=0.5,
            mixed_precision="no",
            report_to="none",
            device="cpu",
        )
    )
