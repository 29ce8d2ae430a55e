import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may wait for a network

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

import raised
from repa.autoencoders import Pixels
from repa.data import PreparedDataset
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import open_source
from repa.encoders import create_encoder

raised.watch()
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))


@pytest.fixture(scope="session")
def emoji_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 real images at 32 px with cached 4x4 EfficientNet-Lite0 tokens, prepared once."""
    folder = tmp_path_factory.mktemp("emoji") / "prepared"
    encoder = create_encoder("efficientnet-lite0", 32, grid_size=4)
    prepare(
        open_source("twemoji"),
        folder,
        32,
        Pixels(),
        {encoder.name: encoder},
        max_images=64,
        work=Work(num_workers=0),
    )
    return folder


@pytest.fixture(scope="session")
def emoji(emoji_dir: Path) -> PreparedDataset:
    return PreparedDataset(emoji_dir)


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD-VAE's architecture, narrow and with random weights, as diffusers saves it."""
    folder = tmp_path_factory.mktemp("vae")
    blocks = 4
    AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.18215,
    ).save_pretrained(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The test that all errors were raised comes after all others."""
    items.sort(key=lambda item: item.name == "test_every_error_was_raised")
