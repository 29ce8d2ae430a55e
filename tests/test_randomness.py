import numpy as np
import pytest

from repa.randomness import Purpose, standard_normal, stream


def numbers(seed: int, purpose: Purpose, index: int, count: int = 8) -> np.ndarray:
    return standard_normal(stream(seed, purpose, index), (count,))


def test_a_stream_is_the_same_each_time() -> None:
    for purpose in Purpose:
        np.testing.assert_array_equal(numbers(3, purpose, 5), numbers(3, purpose, 5))


def test_seed_purpose_and_index_each_make_another_stream() -> None:
    keys = [(s, p, i) for s in (0, 1, 2**63, 2**64 - 1) for p in Purpose for i in (0, 1, 2, 2**40)]
    drawn = {tuple(numbers(*key)) for key in keys}
    assert len(drawn) == len(keys)


def test_streams_of_successive_indices_do_not_overlap() -> None:
    # Counters of a plain numbering would make one stream the other's, a block later.
    blocks = [stream(0, Purpose.TRAINING, i).integers(2**63, size=4000) for i in range(4)]
    assert len(np.unique(np.concatenate(blocks))) == 16_000


def test_streams_are_not_correlated() -> None:
    rows = np.stack([numbers(0, Purpose.SAMPLING, i, 4096) for i in range(20)])
    correlations = np.corrcoef(rows) - np.eye(20)
    assert np.abs(correlations).max() < 0.08  # 5 standard deviations


def test_negative_seeds_are_seeds() -> None:
    assert not np.array_equal(numbers(-1, Purpose.LABELS, 0), numbers(1, Purpose.LABELS, 0))


def test_the_global_generators_are_left_alone() -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    numbers(9, Purpose.SHUFFLE, 1)
    assert np.random.random() == expected


@pytest.mark.parametrize("shape", [(), (3,), (2, 4, 4)])
def test_standard_normal_has_the_shape_asked_for(shape: tuple[int, ...]) -> None:
    values = standard_normal(stream(0, Purpose.SAMPLING, 0), shape)
    assert np.shape(values) == shape
    assert values.dtype == np.float32


def test_standard_normal_is_standard_normal() -> None:
    values = numbers(1, Purpose.SAMPLING, 2, 200_000).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**3).mean()) < 0.04
    assert abs((values**4).mean() - 3) < 0.08


def test_a_longer_draw_starts_like_a_shorter_one() -> None:
    np.testing.assert_array_equal(
        numbers(4, Purpose.ANALYSIS, 0, 16)[:5], numbers(4, Purpose.ANALYSIS, 0, 5)
    )


def test_the_numbers_are_these() -> None:
    """Datasets, checkpoints and reports outlive versions: other numbers would change results."""
    values = stream(2**64 - 1, Purpose.TRAINING, 7).random(3)
    expected = np.random.Generator(
        np.random.Philox(key=2**64 - 1 + (1 << 64), counter=7 << 128)
    ).random(3)
    np.testing.assert_array_equal(values, expected)
