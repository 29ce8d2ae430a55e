import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from repa.data.arrays import ArrayWriter, checksum, close_writers, map_array


def write(path: Path, array: np.ndarray, parts: int, expected_rows: int) -> str | None:
    writer = ArrayWriter(path, expected_rows)
    for part in np.array_split(array, parts):
        writer.append(part)
    return writer.close()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "float16", "float32"])
@pytest.mark.parametrize("shape", [(1,), (13,), (10, 3, 4, 4), (12345, 2)])
def test_the_file_is_the_one_that_numpy_writes(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    np.save(tmp_path / "numpy.npy", array)
    whole = (tmp_path / "numpy.npy").read_bytes()
    for parts, expected in ((1, len(array)), (min(3, len(array)), len(array)), (1, 10**6)):
        digest = write(tmp_path / "ours.npy", array, parts, expected)
        assert (tmp_path / "ours.npy").read_bytes() == whole
        assert digest == hashlib.sha256(whole).hexdigest()


def test_rows_in_any_memory_order_are_written_in_c_order(tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4).transpose(0, 2, 1)
    write(tmp_path / "a.npy", array, 1, 2)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


def test_rows_of_another_shape_or_type_are_refused(tmp_path: Path) -> None:
    writer = ArrayWriter(tmp_path / "a.npy", 4)
    writer.append(np.zeros((2, 3), np.float32))
    for other in (np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float64)):
        with pytest.raises(ValueError, match="a.npy: .* after float32 rows"):
            writer.append(other)


def test_without_rows_there_is_no_file(tmp_path: Path) -> None:
    writers = {"a": ArrayWriter(tmp_path / "a.npy", 4), "b": ArrayWriter(tmp_path / "b.npy", 4)}
    writers["b"].append(np.zeros(1))
    assert close_writers(writers) == {"b.npy": checksum(tmp_path / "b.npy")}
    assert os.listdir(tmp_path) == ["b.npy"]


def test_a_mapped_array_is_what_was_written_and_cannot_be_changed(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((7, 5), dtype=np.float32)
    write(tmp_path / "a.npy", array, 2, 7)
    mapped = map_array(tmp_path / "a.npy")
    np.testing.assert_array_equal(mapped, array)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0
