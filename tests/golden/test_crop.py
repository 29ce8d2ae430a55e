"""The ADM center crop, every byte."""

from pathlib import Path

import numpy as np
from PIL import Image

from repa.data.images import center_crop, decode_image


def test_crop(golden_dir: Path) -> None:
    source = decode_image((golden_dir / "crop_source.png").read_bytes())
    expected = [p for p in golden_dir.glob("crop_*.png") if p.stem != "crop_source"]
    assert expected
    for path in expected:
        resolution = int(path.stem.removeprefix("crop_"))
        with Image.open(path) as image:
            np.testing.assert_array_equal(center_crop(source, resolution), np.asarray(image))
