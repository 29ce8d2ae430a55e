import json
from pathlib import Path

import pytest

from golden.folder import GOLDEN


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "sit_name" in metafunc.fixturenames:
        names = [
            name for name in json.loads((GOLDEN / "configs.json").read_text()) if "sit" in name
        ]
        assert names, f"no SiT in {GOLDEN / 'configs.json'}"
        metafunc.parametrize("sit_name", names)


@pytest.fixture
def golden_dir() -> Path:
    return GOLDEN
