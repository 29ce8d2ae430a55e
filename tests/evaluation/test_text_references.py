"""Validation images of text-to-image datasets as a reference."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.captioned import COUNT
from evaluation.tiny import options
from repa.cli import main
from repa.data import PreparedDataset, open_dataset
from repa.evaluation.evaluate import evaluate


@pytest.mark.parametrize("layout", ["U-ViT", "COCO"])
def test_validation_images_of_texts_are_a_reference(
    tmp_path: Path, emoji: PreparedDataset, samples: Path, clip: Path, tiny: None, layout: str
) -> None:
    """The samples' own images, as text-to-image datasets hold them: FID is 0."""
    images = emoji.images(range(COUNT)).transpose(0, 2, 3, 1)
    folder = write_uvit(tmp_path, images) if layout == "U-ViT" else prepare_coco(tmp_path, images)
    dataset = open_dataset(folder)
    assert len(dataset) == COUNT
    result = evaluate(options(folder, samples, clip=str(clip)))
    assert result is not None
    assert result["fid"] == pytest.approx(0, abs=1e-6)
    assert result["precision"] == result["recall"] == 1
    assert result["reference"]["count"] == COUNT
    assert result["clip_score"] > 0


def write_uvit(root: Path, images: np.ndarray) -> Path:
    """The validation split of U-ViT's features, with the images beside them."""
    (root / "features" / "val").mkdir(parents=True)
    np.save(root / "features" / "empty_context.npy", np.zeros((77, 768), np.float32))
    for i, image in enumerate(images):
        np.save(root / f"features/val/{i}.npy", np.zeros((8, 4, 4), np.float32))
        np.save(root / f"features/val/{i}_0.npy", np.zeros((77, 768), np.float32))
        Image.fromarray(image).save(root / f"features/val/{i}.png")
    return root / "features" / "val"


def prepare_coco(root: Path, images: np.ndarray) -> Path:
    """MS-COCO's validation split, prepared."""
    for name in ("val2014", "annotations"):
        (root / "coco" / name).mkdir(parents=True)
    names = [f"COCO_val2014_{i:012d}.jpg" for i in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(root / "coco" / "val2014" / name, "PNG")  # without loss
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "caption": f"picture {i}"} for i in range(len(names))],
    }
    (root / "coco/annotations/captions_val2014.json").write_text(json.dumps(content))
    arguments = [f"--source={root / 'coco'}", "--split=val", f"--dest={root / 'val'}"]
    arguments += ["--resolution=32", "--autoencoder=pixel", "--num-workers=0", "--device=cpu"]
    assert main(["prepare", *arguments]) == 0
    return root / "val"
