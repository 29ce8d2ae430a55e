from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The library `datasets`, with its cache in a temporary folder and without progress bars."""
    datasets = pytest.importorskip("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield datasets


@pytest.fixture(scope="session")
def table(hf: Any, picture: Callable[..., bytes]) -> Any:
    """Seven images with classes b, c, a, b, ... and captions, as a dataset of the library."""
    columns = {
        "image": [{"bytes": picture(i), "path": f"{i}.png"} for i in range(7)],
        "label": [(i + 1) % 3 for i in range(7)],
        "caption": [f"picture {i}" for i in range(7)],
    }
    features = hf.Features(
        image=hf.Image(), label=hf.ClassLabel(names=["a", "b", "c"]), caption=hf.Value("string")
    )
    return hf.Dataset.from_dict(columns, features=features)
