"""The layout of the published release's preprocessing, written by hand."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.preparing import run, write_released_layout
from repa.cli import main
from repa.data import PreparedDataset, open_dataset
from repa.data.released import ReleasedDataset, ReleasedSource, is_released_layout
from repa.data.visits import ProcessBatches, Visits, visit_loader
from repa.errors import RepaError
from repa.evaluation.images import ImageSet
from repa.files import read_json_lines

COUNT = 5


@pytest.fixture
def layout(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """Five images of 64 px with latents (8, 8, 8) and labels 0 to 2."""
    return write_released_layout(
        tmp_path / "imagenet", [picture(i, (64, 64)) for i in range(COUNT)], latent_side=8
    )


def latent_file(layout: Path, index: int) -> Path:
    return layout / "vae-sd" / "00000" / f"img-mean-std-{index:08d}.npy"


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)


def test_it_is_read_as_it_lies(layout: Path, picture: Callable[..., bytes]) -> None:
    dataset = open_dataset(layout)
    assert isinstance(dataset, ReleasedDataset)
    assert (len(dataset), dataset.num_classes, dataset.labels.tolist()) == (5, 3, [0, 1, 2, 0, 1])
    assert dataset.manifest.autoencoder.model_dump() == {
        "name": "sd-vae-ft-mse",
        "scale": 0.18215,
        "shift": 0.0,
        "latent_shape": (4, 8, 8),
    }
    for i in range(COUNT):
        item = dataset[i]
        np.testing.assert_array_equal(item["image"], pixels(picture(i, (64, 64))))
        np.testing.assert_array_equal(item["latent"], np.load(latent_file(layout, i)))
        assert item["label"] == i % 3
    np.testing.assert_array_equal(dataset.images([4, 0])[0], dataset[4]["image"])


def test_converting_it_changes_no_number(layout: Path, tmp_path: Path) -> None:
    arguments = ["prepare", f"--source={layout}", f"--dest={tmp_path / 'out'}", "--device=cpu"]
    assert main([*arguments, "--num-workers=2"]) == 0
    original, converted = open_dataset(layout), PreparedDataset(tmp_path / "out")
    assert converted.manifest.autoencoder == original.manifest.autoencoder
    assert converted.manifest.resolution == 64
    assert main(["prepare", f"--verify={tmp_path / 'out'}"]) == 0
    for i in range(COUNT):
        one, other = original[i], converted[i]
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_it_gives_the_same_batches_as_its_conversion(layout: Path, tmp_path: Path) -> None:
    source = ReleasedSource(layout)
    run(source, tmp_path / "out", resolution=64, autoencoder=source.autoencoder("sd-vae-ft-ema"))
    keys = {"image", "label", "latent"}
    for workers in (0, 2):
        one, other = (
            visit_loader(Visits(dataset, 3, keys), ProcessBatches(4, 0, 3, 0, 1), workers)
            for dataset in (open_dataset(layout), open_dataset(tmp_path / "out"))
        )
        for left, right in zip(one, other, strict=True):
            assert left.keys() == right.keys()
            assert all(left[key].equal(right[key]) for key in left)


def test_it_trains(layout: Path, tmp_path: Path) -> None:
    train = ["train", f"--data-dir={layout}", f"--output-dir={tmp_path}", "--exp-name=run"]
    train += ["--model=SiT-Ti/2", "--enc-type=efficientnet-lite0", "--encoder-depth=2"]
    train += ["--projector-dim=32", "--batch-size=4", "--max-train-steps=2", "--logging-steps=1"]
    assert main([*train, "--report-to=none", "--device=cpu", "--resolution=64"]) == 0
    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["alignment_loss"]) for line in lines)


def test_its_images_can_be_evaluated(layout: Path) -> None:
    [batch] = ImageSet(layout).batches(8)
    np.testing.assert_array_equal(batch.numpy(), open_dataset(layout).images(range(COUNT)))


def test_it_can_be_sent_to_another_process(layout: Path) -> None:
    dataset = pickle.loads(pickle.dumps(open_dataset(layout)))
    np.testing.assert_array_equal(dataset[2]["latent"], np.load(latent_file(layout, 2)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: latent_file(d, 4).unlink(), "has 5 images and 4 latents"),
        (
            lambda d: latent_file(d, 4).rename(latent_file(d, 7)),
            "img00000004.png and latent 00000/img-mean-std-00000007.npy do not belong together",
        ),
        (
            lambda d: (d / "vae-sd" / "dataset.json").write_text('{"labels": []}'),
            "dataset.json has no label for 00000/img-mean-std-00000000.npy",
        ),
        (lambda d: (d / "vae-sd" / "dataset.json").unlink(), "cannot read dataset.json in"),
        (
            lambda d: (d / "vae-sd" / "dataset.json").write_text('{"labels": null}'),
            "is not of the form",
        ),
        (lambda d: latent_file(d, 0).write_bytes(b"\x93NUMPY"), "cannot read .*00000000.npy"),
        (lambda d: np.save(latent_file(d, 0), np.zeros(8)), "cannot read .*00000000.npy"),
    ],
)
def test_a_layout_that_does_not_fit_together_is_one_clear_line(
    layout: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(layout)
    assert is_released_layout(layout)
    with pytest.raises(RepaError, match=rf"^[^\n]*{message}[^\n]*$"):
        open_dataset(layout)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((8, 4, 4), np.float32), "expected float32"),
        (np.zeros((8, 8, 8), np.float64), "expected float32"),
        (np.array([{}]), "pickle"),
        (np.full((8, 8, 8), np.nan, np.float32), "not finite"),
    ],
)
def test_a_broken_latent_is_found_when_read_and_skipped_when_converted(
    layout: Path, tmp_path: Path, array: np.ndarray, reason: str
) -> None:
    np.save(latent_file(layout, 2), array, allow_pickle=True)
    dataset = open_dataset(layout)
    dataset[1]
    with pytest.raises(RepaError, match=rf"damaged dataset: [^\n]*{reason}"):
        dataset[2]
    assert dataset.read([2], ["label"])["label"] == 2
    source = ReleasedSource(layout)
    manifest = run(source, tmp_path / "out", resolution=64, autoencoder=source.autoencoder("x"))
    assert (manifest.num_images, manifest.num_skipped) == (4, 1)
    assert PreparedDataset(tmp_path / "out")[2]["latent"].shape == (8, 8, 8)


def test_a_broken_or_odd_image_is_found_when_read(
    layout: Path, picture: Callable[..., bytes]
) -> None:
    image = layout / "images" / "00000" / "img00000001.png"
    for data in (b"", picture(1, (64, 64))[:900], picture(1, (32, 32))):
        image.write_bytes(data)
        with pytest.raises(RepaError, match=r"damaged dataset: .*img00000001.png"):
            open_dataset(layout)[1]


def test_a_broken_first_image_is_one_clear_line(layout: Path) -> None:
    (layout / "images" / "00000" / "img00000000.png").write_bytes(b"x")
    with pytest.raises(RepaError, match="^cannot read 00000/img00000000.png in [^\n]*$"):
        open_dataset(layout)


def test_an_image_of_another_size_is_not_converted(
    layout: Path, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    (layout / "images" / "00000" / "img00000003.png").write_bytes(picture(3, (128, 128)))
    source = ReleasedSource(layout)
    manifest = run(source, tmp_path / "out", resolution=64, autoencoder=source.autoencoder("x"))
    [shard] = manifest.shards
    assert list(shard.skipped.values()) == ["ValueError: 128x128 pixels; expected 64x64"]


def test_another_resolution_is_refused(layout: Path, tmp_path: Path, capsys) -> None:
    arguments = ["prepare", f"--source={layout}", f"--dest={tmp_path / 'out'}", "--resolution=32"]
    assert main([*arguments, "--device=cpu"]) == 2
    assert "--resolution 32: the images have 64 px" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_has_no_text(layout: Path) -> None:
    dataset = open_dataset(layout)
    message = r"imagenet has no text: the release's layout has classes only$"
    with pytest.raises(RepaError, match=message):
        dataset.read_text("clip-vit-l", [0], [0.5])
    with pytest.raises(RepaError, match=message):
        dataset.empty_text("clip-vit-l")
