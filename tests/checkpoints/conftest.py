from pathlib import Path

import pytest

from checkpoints.files import save, save_ours, training_checkpoint


@pytest.fixture(scope="session")
def content() -> dict:
    """A training checkpoint of the release; not to be changed."""
    return training_checkpoint()


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory, content: dict) -> Path:
    """The same as a file."""
    return save(content, tmp_path_factory.mktemp("released") / "0000007.pt")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return save_ours(tmp_path / "run" / "checkpoints" / "0000009")
