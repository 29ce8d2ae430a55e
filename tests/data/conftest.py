import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from data.preparing import SMALL_SHARDS
from repa.data.sources import Source, open_source

Files = dict[str, bytes]


def _picture(seed: int, size: tuple[int, int] = (20, 24), format: str = "PNG") -> bytes:  # noqa: A002
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def _write_folder(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _write_tar(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """An image file of noise that the seed determines."""
    return _picture


@pytest.fixture(scope="session")
def write_folder() -> Callable[[Path, Files], Path]:
    return _write_folder


@pytest.fixture(scope="session")
def write_zip() -> Callable[[Path, Files], Path]:
    return _write_zip


@pytest.fixture(scope="session")
def write_tar() -> Callable[[Path, Files], Path]:
    return _write_tar


@pytest.fixture(scope="session")
def mixed_files() -> Files:
    """Ten good images in three classes and three broken files, in the order of a source."""
    files = {f"{'abc'[i % 3]}/{i:02d}.png": _picture(i) for i in range(10)}
    files["a/broken.jpg"] = _picture(99, (64, 64), "JPEG")[:700]
    files["b/empty.png"] = b""
    files["c/notes.txt"] = b"no image\n"
    return dict(sorted(files.items()))


@pytest.fixture(scope="session")
def vae_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small autoencoder of SD-VAE's kind with random weights, in diffusers' format."""
    folder = tmp_path_factory.mktemp("vae")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(4, 4),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=2,
            scaling_factor=0.25,
        )
    vae.save_pretrained(folder)
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repa.data.prepare.SHARD_ITEMS", SMALL_SHARDS)


@pytest.fixture
def source(
    tmp_path: Path, write_folder: Callable[[Path, Files], Path], mixed_files: Files
) -> Source:
    return open_source(str(write_folder(tmp_path / "pictures", mixed_files)))
