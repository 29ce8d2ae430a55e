import numpy as np
import torch

from repa.diffusion import Interpolant, sample_sde
from repa.sampling.batches import consecutive, image_batches, official_batches
from repa.sampling.noise import ImageNoise, OfficialStream

SHAPE = (2, 4, 4)


def test_an_images_noise_is_its_own() -> None:
    together, alone = ImageNoise(7, [5, 3], SHAPE), ImageNoise(7, [3], SHAPE)
    for draw in ("initial", "step", "step"):
        arguments = () if draw == "initial" else (0,)
        first, second = getattr(together, draw)(*arguments), getattr(alone, draw)(*arguments)
        assert first.dtype == torch.float32
        assert torch.equal(first[1:], second)
        assert not torch.equal(first[0], first[1])
    assert not torch.equal(ImageNoise(8, [3], SHAPE).initial(), ImageNoise(7, [3], SHAPE).initial())


def release_draws(seed: int, rank: int, world: int, n: int, batches: int, steps: int):
    """What one process of the release draws: its global generator, in its loop's order."""
    torch.manual_seed(seed * world + rank)
    for _ in range(batches):
        z = torch.randn(n, *SHAPE)
        y = torch.randint(0, 10, (n,))
        yield z, y, [torch.randn_like(z.double()) for _ in range(steps)]


def stream(seed: int, rank: int, world: int, n: int) -> OfficialStream:
    return OfficialStream(seed, rank, world, (n, *SHAPE), num_classes=10)


def test_the_official_stream_is_the_releases() -> None:
    for rank in (0, 1):
        expected = list(release_draws(seed=3, rank=rank, world=2, n=3, batches=3, steps=4))
        random = stream(3, rank, 2, 3)
        batches = official_batches(range(16), 16, None, random, 4, rank, 2)
        for batch, (z, y, noises) in zip(batches, expected, strict=True):
            assert torch.equal(batch.labels, y)
            assert torch.equal(batch.noise.initial(), z)
            for step, noise in enumerate(noises):
                assert torch.equal(batch.noise.step(step), noise)


def test_official_indices_are_the_releases() -> None:
    found = {}
    for rank in (0, 1):
        batches = list(official_batches(range(10), 10, None, stream(0, rank, 2, 3), 0, rank, 2))
        found[rank] = [list(batch.indices) for batch in batches]
    # index = row * processes + rank + images of the batches before; those beyond 9 are dropped
    assert found == {0: [[0, 2, 4], [6, 8]], 1: [[1, 3, 5], [7, 9]]}


def test_batches_that_are_there_still_take_their_numbers() -> None:
    *_, (z, y, noises) = release_draws(seed=1, rank=0, world=1, n=2, batches=3, steps=5)
    (batch,) = official_batches([4, 5], 6, None, stream(1, 0, 1, 2), step_noises=5)
    assert batch.indices == range(4, 6)
    assert torch.equal(batch.labels, y)
    assert torch.equal(batch.noise.initial(), z)
    assert torch.equal(batch.noise.step(0), noises[0])


def test_chosen_labels_leave_the_official_noise_as_it_is() -> None:
    (z, _, _), *_ = release_draws(seed=0, rank=0, world=1, n=4, batches=1, steps=0)
    (batch,) = official_batches(range(3), 3, np.array([7, 8, 9]), stream(0, 0, 1, 4), 0)
    assert batch.labels[:3].tolist() == [7, 8, 9]
    assert torch.equal(batch.noise.initial(), z)


def test_the_last_step_of_the_sde_draws_no_noise() -> None:
    steps = []

    def draw(step: int) -> torch.Tensor:
        steps.append(step)
        return torch.zeros(1)

    sample_sde(lambda x, t, step_time: x, torch.ones(1, 1), 5, Interpolant(), draw)
    assert steps == [0, 1, 2, 3]  # num_steps - 1, as `repa.sampling.command` counts on


def test_processes_share_the_batches() -> None:
    labels = np.arange(11)
    batches = [
        list(image_batches(range(11), labels, 0, 3, SHAPE, torch.device("cpu"), process, 2))
        for process in (0, 1)
    ]
    assert [batch.indices for batch in batches[0]] == [range(3), range(6, 9)]
    assert [batch.indices for batch in batches[1]] == [range(3, 6), range(9, 11)]
    assert batches[1][1].labels.tolist() == [9, 10]


def test_equal_batches_have_rows_of_no_use() -> None:
    missing, labels = [0, 1, 2, 4, 9, 10], np.arange(11)
    batches = list(image_batches(missing, labels, 7, 2, SHAPE, torch.device("cpu"), equal=True))
    assert [batch.indices for batch in batches] == [
        range(2), range(2, 3), range(4, 5), range(9, 11),
    ]  # fmt: skip
    for batch in batches:
        noise = batch.noise.initial()
        assert len(batch.labels) == len(noise) == 2
        kept = len(batch.indices)
        assert batch.labels[:kept].tolist() == list(batch.indices)
        assert torch.equal(noise[:kept], ImageNoise(7, batch.indices, SHAPE).initial())
    (last,) = image_batches([10], labels, 7, 2, SHAPE, torch.device("cpu"), equal=True)
    assert len(last.labels) == 1  # as long as the longest there is


def test_gaps_split_batches() -> None:
    assert consecutive([0, 1, 2, 5, 6, 9], 2) == [
        range(2), range(2, 3), range(5, 7), range(9, 10),
    ]  # fmt: skip
    assert consecutive([], 2) == []
