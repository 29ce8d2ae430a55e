"""U-ViT's extracted features, written by hand as its scripts leave them."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from repa.data import open_dataset
from repa.data.uvit import UViTDataset, is_uvit_layout
from repa.data.visits import ProcessBatches, Visits, visit_loader
from repa.errors import RepaError

COUNTS = [2, 1, 5, 3, 1, 1, 1, 1, 1, 1, 2]  # captions an image: enough images for two digits
CLIP = (77, 768)


def moments(index: int) -> np.ndarray:
    """Mean and log-variance (8, 8, 8); some of these beyond what the release lets through."""
    random = np.random.default_rng(index)
    mean = random.standard_normal((4, 8, 8), dtype=np.float32)
    return np.concatenate([mean, random.uniform(-40, 5, (4, 8, 8)).astype(np.float32)])


def tokens(index: int, caption: int) -> np.ndarray:
    return np.random.default_rng([index, caption]).standard_normal(CLIP, dtype=np.float32)


def write_split(folder: Path, picture: Callable[..., bytes]) -> None:
    folder.mkdir(parents=True)
    for index, count in enumerate(COUNTS):
        np.save(folder / f"{index}.npy", moments(index))
        (folder / f"{index}.png").write_bytes(picture(index, (64, 64)))
        for caption in range(count):
            np.save(folder / f"{index}_{caption}.npy", tokens(index, caption))


@pytest.fixture
def layout(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """Eleven images of 64 px in `train`, none in `val`."""
    write_split(tmp_path / "coco256_features" / "train", picture)
    np.save(tmp_path / "coco256_features" / "empty_context.npy", tokens(99, 0))
    return tmp_path / "coco256_features"


@pytest.fixture
def train(layout: Path) -> Path:
    return layout / "train"


def test_it_is_read_as_it_lies(layout: Path, picture: Callable[..., bytes]) -> None:
    dataset = open_dataset(layout)
    assert isinstance(dataset, UViTDataset)
    assert (len(dataset), dataset.num_classes) == (11, 1)
    assert dataset.labels.tolist() == [0] * 11
    manifest = dataset.manifest
    assert (manifest.resolution, manifest.classes, manifest.has_captions) == (64, ["image"], False)
    assert manifest.autoencoder.model_dump() == {
        "name": "sd-vae-ft-mse",
        "scale": 0.18215,
        "shift": 0.0,
        "latent_shape": (4, 8, 8),
    }
    for index in (0, 2, 10):
        item = dataset[index]
        assert item.keys() == {"image", "label", "latent"}
        image = np.asarray(Image.open(io.BytesIO(picture(index, (64, 64))))).transpose(2, 0, 1)
        np.testing.assert_array_equal(item["image"], image)
        assert (item["label"], item["label"].dtype) == (0, np.int64)
        assert dataset.captions(index) == []
    np.testing.assert_array_equal(dataset.images([10, 0])[1], dataset[0]["image"])


def test_log_variances_become_deviations(layout: Path) -> None:
    latents = open_dataset(layout).read([3, 0], ["latent"])["latent"]
    assert latents.dtype == np.float32
    stored = torch.from_numpy(np.stack([moments(3), moments(0)]))
    posterior = DiagonalGaussianDistribution(stored)
    np.testing.assert_array_equal(latents[:, :4], posterior.mean.numpy())
    np.testing.assert_allclose(latents[:, 4:], posterior.std.numpy(), rtol=1e-6)
    assert latents[:, 4:].min() == pytest.approx(np.exp(-15))  # -40 was cut off at -30


def test_a_number_draws_the_caption(layout: Path) -> None:
    dataset = open_dataset(layout)
    assert isinstance(dataset, UViTDataset)
    record = dataset.manifest.text["clip-vit-l"]
    assert (record.length, record.dim, record.mask_padding, record.weights) == (77, 768, False, "")
    uniform = np.array([0.0, 0.39, 0.4, 0.999, 0.999], np.float32)
    read = dataset.read_text("clip-vit-l", [2, 2, 2, 2, 1], uniform)
    assert (read.dtype, read.shape) == (np.float32, (5, *CLIP))
    for row, (index, caption) in enumerate([(2, 0), (2, 1), (2, 2), (2, 4), (1, 0)]):
        np.testing.assert_array_equal(read[row], tokens(index, caption))
    largest = np.nextafter(np.float32(1), np.float32(0), dtype=np.float32)
    read = dataset.read_text("clip-vit-l", [2, 3], [largest, largest])
    np.testing.assert_array_equal(read, [tokens(2, 4), tokens(3, 2)])
    np.testing.assert_array_equal(dataset.empty_text("clip-vit-l"), tokens(99, 0))


def test_another_text_encoder_is_refused(layout: Path) -> None:
    dataset = open_dataset(layout)
    assert isinstance(dataset, UViTDataset)
    for read in (lambda: dataset.read_text("t5", [0], [0.5]), lambda: dataset.empty_text("t5")):
        with pytest.raises(RepaError, match="has text features of clip-vit-l, none of t5"):
            read()


@pytest.mark.parametrize("where", ["in the parent", "beside the features"])
def test_one_split_may_be_named(layout: Path, where: str, picture: Callable[..., bytes]) -> None:
    write_split(layout / "val", picture)
    np.save(layout / "val" / "0.npy", moments(50))
    if where == "beside the features":
        (layout / "empty_context.npy").rename(layout / "val" / "empty_context.npy")
    dataset = open_dataset(layout / "val")
    assert isinstance(dataset, UViTDataset)
    assert dataset.manifest.source.name == "U-ViT-val"
    np.testing.assert_array_equal(dataset[0]["latent"][:4], moments(50)[:4])
    np.testing.assert_array_equal(dataset.empty_text("clip-vit-l"), tokens(99, 0))


def test_a_split_named_from_inside_finds_its_parent(
    train: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(train)
    assert len(open_dataset(".")) == 11


def test_it_gives_batches_of_visits_with_captions_of_their_images(layout: Path) -> None:
    dataset = open_dataset(layout)
    of_image = {dataset[i]["latent"].tobytes(): i for i in range(len(dataset))}
    for workers in (0, 2):
        visits = Visits(dataset, 3, {"label", "latent"}, "clip-vit-l")
        for batch in visit_loader(visits, ProcessBatches(4, 0, 3, 0, 1), workers):
            assert batch["context"].shape == (4, *CLIP)
            for latent, context in zip(batch["latent"], batch["context"], strict=True):
                index = of_image[latent.numpy().tobytes()]
                own = [tokens(index, caption) for caption in range(COUNTS[index])]
                assert any(np.array_equal(context, caption) for caption in own)


def test_without_images_all_else_is_there(layout: Path, train: Path) -> None:
    for path in train.glob("*.png"):
        path.unlink()
    dataset = open_dataset(layout)
    assert dataset[2].keys() == {"label", "latent"}
    with pytest.raises(RepaError, match=r"^no image .*2.png: put the 64x64 images beside"):
        dataset.images([2])


def test_half_the_precision_is_enough_for_tokens(layout: Path, train: Path) -> None:
    np.save(train / "1_0.npy", tokens(1, 0).astype(np.float16))
    dataset = open_dataset(layout)
    assert isinstance(dataset, UViTDataset)
    read = dataset.read_text("clip-vit-l", [1, 0], [0.5, 0.5])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read[0], tokens(1, 0).astype(np.float16))


def test_it_can_be_sent_to_another_process(layout: Path) -> None:
    dataset = open_dataset(layout)
    sent = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(sent[2]["latent"], dataset[2]["latent"])


def fingerprint(layout: Path) -> str:
    return open_dataset(layout).manifest.source.fingerprint


def test_other_features_have_another_fingerprint(layout: Path, train: Path) -> None:
    before = fingerprint(layout)
    assert fingerprint(layout) == before
    np.save(train / "1_1.npy", tokens(1, 1))
    assert fingerprint(layout) != before


@pytest.mark.parametrize("changed", ["train/3.npy", "train/10_0.npy", "empty_context.npy"])
def test_as_many_features_of_something_else_have_another_fingerprint(
    layout: Path, changed: str
) -> None:
    before = fingerprint(layout)
    array = np.load(layout / changed)
    np.save(layout / changed, array + 1)
    assert fingerprint(layout) != before
    np.save(layout / changed, array)
    assert fingerprint(layout) == before


def test_few_files_are_read_for_the_fingerprint(
    layout: Path, train: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    whole = Path.read_bytes

    def note(path: Path) -> bytes:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr("repa.data.uvit.FINGERPRINTED", 3)
    monkeypatch.setattr(Path, "read_bytes", note)
    open_dataset(layout)
    assert read == ["0.npy", "0_0.npy", "5.npy", "5_0.npy", "10.npy", "10_0.npy"]


def test_images_are_counted_from_zero(layout: Path) -> None:
    dataset = open_dataset(layout)
    for index in (-1, 11):
        for read in (dataset.captions, dataset.__getitem__):
            with pytest.raises(IndexError, match=f"image {index} of 11"):
                read(index)


def test_other_folders_are_none(tmp_path: Path, emoji_dir: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", emoji_dir):
        assert not is_uvit_layout(folder)
    with pytest.raises(RepaError, match=r"^cannot read \S+nowhere: No such file or directory$"):
        UViTDataset(tmp_path / "nowhere")


BROKEN = {
    "gap": (lambda d: (d / "4.npy").unlink(), r"no 4.npy in .*train: expected 0.npy, 1.npy"),
    "nothing": (lambda d: d.rename(d.parent / "val"), "no 0.npy in .*: .*; give the folder"),
    "stray caption": (
        lambda d: np.save(d / "11_0.npy", tokens(0, 0)),
        "captions of images that are not there: 1, the first is 11.npy",
    ),
    "no caption": (
        lambda d: [(d / f"{i}_0.npy").unlink() for i in (4, 7)],
        r"images that lack captions: 2, the first is 4.npy; expected 4_0.npy, 4_1.npy",
    ),
    "a caption missing": (lambda d: (d / "2_1.npy").unlink(), "lack captions: 1, the first is 2"),
    "no empty caption": (
        lambda d: (d.parent / "empty_context.npy").unlink(),
        "damaged dataset: .*/empty_context.npy is not there",
    ),
    "another text model": (
        lambda d: np.save(d / "0_0.npy", np.zeros((77, 1024), np.float32)),
        r"0_0.npy: float32 \(77, 1024\); expected float32 \(77, 768\)",
    ),
    "another empty caption": (
        lambda d: np.save(d.parent / "empty_context.npy", np.zeros((77, 1024), np.float32)),
        r"empty_context.npy: float32 \(77, 1024\); expected float32 \(77, 768\)",
    ),
    "latents of no shape": (
        lambda d: np.save(d / "0.npy", np.zeros(8, np.float32)),
        r"0.npy has the shape \(8,\); expected",
    ),
    "a link to itself": (
        lambda d: [(d / "3_0.npy").unlink(), (d / "3_0.npy").symlink_to("3_0.npy")],
        "damaged dataset: .*3_0.npy: ",  # of those that are read for the fingerprint
    ),
    "latents cut off": (lambda d: (d / "0.npy").write_bytes(b"\x93NUMPY"), "damaged .*/0.npy"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_a_layout_that_does_not_fit_together_is_one_clear_line(
    layout: Path, train: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(train)
    assert is_uvit_layout(layout)
    with pytest.raises(RepaError, match=rf"^[^\n]*{message}[^\n]*$"):
        open_dataset(layout)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((8, 4, 4), np.float32), r"expected float32 \(8, 8, 8\)"),
        (np.zeros((8, 8, 8), np.float64), r"float64 .*expected float32"),
        (np.array([{}]), "pickle"),
        (np.full((8, 8, 8), np.nan, np.float32), "not finite"),
    ],
)
def test_a_broken_latent_is_found_when_read(
    layout: Path, train: Path, array: np.ndarray, reason: str
) -> None:
    np.save(train / "2.npy", array, allow_pickle=True)
    dataset = open_dataset(layout)
    dataset[1]
    with pytest.raises(RepaError, match=rf"^damaged dataset: [^\n]*2.npy: [^\n]*{reason}"):
        dataset[2]


def test_a_broken_caption_is_found_when_read(layout: Path, train: Path) -> None:
    (train / "2_4.npy").write_bytes((train / "2_4.npy").read_bytes()[:1000])
    dataset = open_dataset(layout)
    assert isinstance(dataset, UViTDataset)
    dataset.read_text("clip-vit-l", [2], [0.5])
    with pytest.raises(RepaError, match=r"^damaged dataset: [^\n]*2_4.npy"):
        dataset.read_text("clip-vit-l", [2], [0.9])


def test_a_broken_or_odd_image_is_found_when_read(
    layout: Path, train: Path, picture: Callable[..., bytes]
) -> None:
    for data in (b"", picture(1, (64, 64))[:900], picture(1, (32, 32))):
        (train / "1.png").write_bytes(data)
        with pytest.raises(RepaError, match=r"damaged dataset: .*1.png"):
            open_dataset(layout)[1]
