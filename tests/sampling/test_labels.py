from pathlib import Path

import numpy as np
import pytest

from repa.errors import RepaError
from repa.sampling.labels import choose_labels

NAMES = ["cat", "tench, Tinca tinca", "dog", "7"]


def test_random_labels_belong_to_their_images() -> None:
    many = choose_labels("random", 1000, 4, seed=1)
    assert np.array_equal(many[:10], choose_labels("random", 10, 4, seed=1))
    assert not np.array_equal(many, choose_labels("random", 1000, 4, seed=2))
    assert np.bincount(many).min() > 200


def test_balanced_labels_have_equal_counts() -> None:
    assert np.bincount(choose_labels("balanced", 10, 4)).tolist() == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("2", [2] * 5),
        ("1,3", [1, 3, 1, 3, 1]),
        ("dog, cat", [2, 0, 2, 0, 2]),
        ("tench, Tinca tinca", [1] * 5),  # a comma in a name
        ("7", [3] * 5),  # beyond the labels, but a name
    ],
)
def test_labels_and_names_are_taken_in_turn(classes: str, expected: list[int]) -> None:
    assert choose_labels(classes, 5, 4, NAMES).tolist() == expected


def test_a_file_gives_the_label_of_each_image(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("3\ndog\n0\ntench, Tinca tinca\n")
    assert choose_labels(str(file), 4, 4, NAMES).tolist() == [3, 2, 0, 1]
    with pytest.raises(RepaError, match="labels.txt: 4 labels for 5 images"):
        choose_labels(str(file), 5, 4, NAMES)


def test_a_long_list_is_no_file_name() -> None:
    assert choose_labels(",".join(["1", "2"] * 300), 3, 4).tolist() == [1, 2, 1]


def test_marks_of_other_systems_are_no_labels(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeff3\r\n1\r\n\r\n".encode())
    assert choose_labels(str(file), 2, 4).tolist() == [3, 1]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RepaError, match="--classes .*labels.txt: 'utf-8' codec"):
        choose_labels(str(file), 1, 4)


@pytest.mark.parametrize("classes", ["4", "-1", "bird", "", "1,,2", "1.5", "²"])
def test_a_class_that_the_model_lacks_is_refused(classes: str) -> None:
    with pytest.raises(RepaError, match="expected random, balanced, a label from 0 to 3"):
        choose_labels(classes, 5, 4)
    with pytest.raises(RepaError, match="one of cat, tench, Tinca tinca, dog, 7, or a file"):
        choose_labels(classes, 5, 4, NAMES)
