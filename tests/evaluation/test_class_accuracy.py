import pytest
import torch

from repa.errors import RepaError
from repa.evaluation.class_accuracy import check_labels, class_accuracy
from repa.evaluation.networks import Network


def test_it_is_the_share_of_samples_that_show_their_class() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.2, 0, 0.8]])
    assert class_accuracy(probabilities, torch.tensor([0, 2, 1, 2])) == 1
    assert class_accuracy(probabilities, torch.tensor([0, 2, 2, 0])) == 0.5
    assert class_accuracy(probabilities, torch.tensor([1, 1, 0, 1])) == 0


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 3], [0, -1, 2], [[0], [1], [2]]])
def test_labels_that_do_not_fit_are_an_error(labels: list) -> None:
    with pytest.raises(ValueError, match="labels .* for probabilities"):
        class_accuracy(torch.eye(3), torch.tensor(labels))


def test_labels_outside_the_classes_are_found_before_the_work() -> None:
    judge = Network("classifier", torch.nn.Identity(), 1)
    check_labels("x", torch.tensor([0, 7]), judge)  # it has no classes of its own
    judge.classes = ("cat", "dog")
    check_labels("x", torch.tensor([0, 1]), judge)
    check_labels("x", None, judge)
    for label in (2, -1):
        message = rf"^the samples x: label {label} is none of the classes of classifier, 0 to 1: "
        with pytest.raises(RepaError, match=message):
            check_labels("the samples x", torch.tensor([0, label, 1]), judge)
