from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.preparing import Words
from repa.autoencoders import Pixels, create_autoencoder
from repa.data import PreparedDataset
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import Item, Source
from repa.data.visits import ProcessBatches, Visits, visit_loader
from repa.errors import RepaError

COUNT = 12


@pytest.fixture(scope="module")
def datasets(
    tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., bytes], vae_dir: Path
) -> dict[str, PreparedDataset]:
    """The same images as pixels and as latents; an image's label is its index.

    The first image has no caption, the others have four.
    """
    root = tmp_path_factory.mktemp("visits")
    captions = [tuple(f"{i} {word}" for word in "abcd" if i) for i in range(COUNT)]
    items = [Item(f"{i:02d}", i, captions[i]) for i in range(COUNT)]
    classes = [str(i) for i in range(COUNT)]
    source = Source("own", items, classes, lambda name: picture(int(name)))
    autoencoders = {"pixels": Pixels(), "latents": create_autoencoder(str(vae_dir))}
    for name, autoencoder in autoencoders.items():
        prepare(
            source,
            root / name,
            16,
            autoencoder,
            {},
            work=Work(num_workers=0),
            text_encoders=[Words()],
        )
    return {name: PreparedDataset(root / name) for name in autoencoders}


@pytest.fixture(scope="module")
def pixels(datasets: dict[str, PreparedDataset]) -> PreparedDataset:
    return datasets["pixels"]


def sample(visits: Visits, visit: int) -> dict[str, np.ndarray]:
    """One visit alone."""
    return {key: value[0].numpy() for key, value in visits.read([visit]).items()}


def order(dataset: PreparedDataset, seed: int, epoch: int) -> list[int]:
    visits = Visits(dataset, seed, {"label"})
    return [int(sample(visits, epoch * COUNT + i)["label"]) for i in range(COUNT)]


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_an_epoch_visits_every_image_once(pixels: PreparedDataset) -> None:
    for epoch in (0, 1, 2, 1000):
        assert sorted(order(pixels, 0, epoch)) == list(range(COUNT))


def test_the_order_depends_on_epoch_and_seed(pixels: PreparedDataset) -> None:
    orders = [order(pixels, seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(map(tuple, orders))) == 6
    assert order(pixels, 0, 1) == orders[1]


def test_a_visit_has_the_documented_arrays(datasets: dict[str, PreparedDataset]) -> None:
    def kinds(dataset: PreparedDataset, keys: set[str]) -> dict:
        values = sample(Visits(dataset, 0, keys), 3)
        return {key: (value.shape, value.dtype) for key, value in values.items()}

    common = {"time_uniform": ((), np.float32), "drop_uniform": ((), np.float32)}
    assert kinds(datasets["pixels"], {"image", "label"}) == common | {
        "label": ((), np.int64),
        "image": ((3, 16, 16), np.uint8),
        "noise": ((3, 16, 16), np.float32),
    }
    assert kinds(datasets["latents"], {"label", "latent"}) == common | {
        "label": ((), np.int64),
        "latent": ((8, 8, 8), np.float32),
        "noise": ((4, 8, 8), np.float32),
        "posterior_noise": ((4, 8, 8), np.float32),
    }


def test_the_image_belongs_to_the_label(pixels: PreparedDataset) -> None:
    visits = Visits(pixels, 5, {"label", "image"})
    for visit in range(2 * COUNT):
        arrays = sample(visits, visit)
        np.testing.assert_array_equal(arrays["image"], pixels[int(arrays["label"])]["image"])


def test_a_visit_may_be_changed_without_changing_the_dataset(pixels: PreparedDataset) -> None:
    visits = Visits(pixels, 0, {"image"})
    before = sample(visits, 0)["image"].copy()
    sample(visits, 0)["image"][:] = 0
    np.testing.assert_array_equal(sample(visits, 0)["image"], before)


def test_random_numbers_depend_on_seed_and_visit_only(datasets: dict[str, PreparedDataset]) -> None:
    random = ("noise", "time_uniform", "drop_uniform")
    one = Visits(datasets["pixels"], 7, {"label"})
    other = Visits(datasets["pixels"], 7, {"image", "label"})
    one.read(range(5))  # whatever was drawn before
    for visit in (0, 11, 12, 10**7):
        for key in random:
            np.testing.assert_array_equal(sample(one, visit)[key], sample(other, visit)[key])
    noise = one.read([0, 1, COUNT])["noise"]  # the last in another epoch
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert not np.array_equal(noise[0], sample(Visits(datasets["pixels"], 8, set()), 0)["noise"])
    latents = sample(Visits(datasets["latents"], 7, {"latent"}), 0)
    assert not np.array_equal(latents["noise"], latents["posterior_noise"])


def test_random_numbers_have_the_right_distributions(pixels: PreparedDataset) -> None:
    visits = Visits(pixels, 0, set())
    batch = {key: value.numpy() for key, value in visits.read(range(400)).items()}
    noise = batch["noise"]  # 307,200 numbers
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    for key in ("time_uniform", "drop_uniform"):
        values = batch[key]
        assert values.min() >= 0
        assert values.max() < 1
        assert abs(values.mean() - 0.5) < 0.06
        assert abs(values.std() - 12**-0.5) < 0.03
    assert (batch["time_uniform"] != batch["drop_uniform"]).all()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_covers_the_same_visits_in_the_same_steps(processes: int) -> None:
    parts = [list(ProcessBatches(8, 40, 5, r, processes)) for r in range(processes)]
    assert all(len(ProcessBatches(8, 40, 5, r, processes)) == 5 for r in range(processes))
    for step in range(5):
        visits = [visit for part in parts for visit in part[step]]
        assert visits == list(range(40 + 8 * step, 48 + 8 * step))
        assert {len(part[step]) for part in parts} == {8 // processes}


def batches(
    dataset: PreparedDataset,
    first_visit: int,
    count: int,
    workers: int,
    process: int = 0,
    of: int = 1,
) -> Iterator[dict[str, Tensor]]:
    visits = Visits(dataset, 3, {"label", "image"})
    yield from visit_loader(visits, ProcessBatches(4, first_visit, count, process, of), workers)


def test_a_later_start_gives_the_same_batches(pixels: PreparedDataset) -> None:
    whole = list(batches(pixels, 0, 8, workers=0))  # beyond two epochs
    assert len(whole) == 8
    for start in (1, 3, 5):
        rest = list(batches(pixels, 4 * start, 8 - start, workers=0))
        assert len(rest) == 8 - start
        assert all(map(same, rest, whole[start:]))


def test_workers_change_nothing(pixels: PreparedDataset) -> None:
    one, other = (list(batches(pixels, 4, 5, workers)) for workers in (0, 2))
    assert len(one) == len(other) == 5
    assert all(map(same, one, other))


def test_two_processes_see_together_what_one_sees(pixels: PreparedDataset) -> None:
    whole = list(batches(pixels, 0, 4, 0))
    parts = [list(batches(pixels, 0, 4, 0, process, of=2)) for process in range(2)]
    for step, batch in enumerate(whole):
        for key, value in batch.items():
            together = torch.cat([part[step][key] for part in parts])
            torch.testing.assert_close(together, value, rtol=0, atol=0)


def test_batches_are_tensors_of_the_documented_types(pixels: PreparedDataset) -> None:
    [batch] = batches(pixels, 0, 1, workers=0)
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "label": ((4,), torch.int64),
        "image": ((4, 3, 16, 16), torch.uint8),
        "noise": ((4, 3, 16, 16), torch.float32),
        "time_uniform": ((4,), torch.float32),
        "drop_uniform": ((4,), torch.float32),
    }


# Text


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_text_changes_nothing_else(datasets: dict[str, PreparedDataset], kind: str) -> None:
    dataset = datasets[kind]
    keys = {"image", "label"} | ({"latent"} if kind == "latents" else set())
    bare, texted = Visits(dataset, 7, keys), Visits(dataset, 7, keys, "words")
    for visits in (range(5), [0, COUNT, 10**7]):
        one, other = bare.read(visits), texted.read(visits)
        context = other.pop("context")
        assert (context.shape, context.dtype) == ((len(visits), 4, 3), torch.float16)
        assert same(one, other)


def caption_of(dataset: PreparedDataset, arrays: dict[str, np.ndarray]) -> int:
    """Which of its image's captions the context of a visit is."""
    captions = dataset.captions(int(arrays["label"]))
    tokens = Words()(captions or [""]).to(torch.float16).numpy()
    [number] = [j for j, own in enumerate(tokens) if np.array_equal(own, arrays["context"])]
    return number


def test_the_context_is_one_of_the_images_captions(pixels: PreparedDataset) -> None:
    visits = Visits(pixels, 5, {"label"}, "words")
    for epoch in (0, 1):
        for i in range(COUNT):
            caption_of(pixels, sample(visits, epoch * COUNT + i))


def test_all_captions_are_drawn_equally_often(pixels: PreparedDataset) -> None:
    batch = Visits(pixels, 0, {"label"}, "words").read(range(100 * COUNT))
    arrays = [{key: batch[key][i].numpy() for key in ("label", "context")} for i in range(1200)]
    drawn = [caption_of(pixels, visit) for visit in arrays if visit["label"] != 0]
    counts = np.bincount(drawn, minlength=4)
    assert counts.sum() == 1100
    assert abs(counts - 275).max() < 4 * 14.4  # standard deviations


def test_the_caption_depends_on_seed_and_visit_only(pixels: PreparedDataset) -> None:
    def draws(seed: int, visits: range, keys: set[str]) -> list[int]:
        read = Visits(pixels, seed, keys, "words")
        return [caption_of(pixels, sample(read, visit)) for visit in visits]

    whole = draws(3, range(40), {"label"})
    assert draws(3, range(20, 40), {"label", "image"}) == whole[20:]
    assert draws(4, range(40), {"label"}) != whole


def test_text_that_is_not_there_is_an_error_at_once(pixels: PreparedDataset) -> None:
    with pytest.raises(RepaError, match="has no text of clip-vit-l: add it with `repa prepare"):
        Visits(pixels, 0, {"label"}, "clip-vit-l")
