from pathlib import Path

import pytest

from repa.config import TrainOptions
from repa.training import train
from sampling.texts import prepare_captioned, save_drawer, write_captioned
from text.models import save_clip


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


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP: 77 tokens of 24."""
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def drawer(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an MMDiT with random weights on pixels, trained with that CLIP's tokens."""
    return save_drawer(tmp_path_factory.mktemp("drawer") / "0000007", clip)


@pytest.fixture(scope="session")
def captioned(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images with captions, whose tokens by that CLIP are stored."""
    folder = tmp_path_factory.mktemp("captioned")
    return prepare_captioned(write_captioned(folder / "images"), folder / "data", clip)
