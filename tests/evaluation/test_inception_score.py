import math

import pytest
import torch

from repa.evaluation import inception_score


def test_undecided_predictions_score_one() -> None:
    assert inception_score(torch.full((40, 10), 0.1)) == pytest.approx(1)


def test_equal_predictions_score_one() -> None:
    row = torch.rand(1, 10).softmax(1)
    assert inception_score(row.expand(40, 10)) == pytest.approx(1)
    assert inception_score(torch.eye(10)[3].expand(40, 10)) == pytest.approx(1)


@pytest.mark.parametrize("classes", [2, 7, 1000])
def test_sure_and_balanced_predictions_score_the_number_of_classes(classes: int) -> None:
    assert inception_score(torch.eye(classes).repeat(2, 1)) == pytest.approx(classes)


def test_it_is_the_definition() -> None:
    p = torch.randn(30, 5, dtype=torch.float64).softmax(1)
    marginal = p.mean(0)
    divergences = [
        sum(row[c].item() * math.log(row[c] / marginal[c]) for c in range(5)) for row in p
    ]
    assert inception_score(p) == pytest.approx(math.exp(sum(divergences) / 30))


def test_splits_are_scored_each_for_itself() -> None:
    p = torch.randn(25, 5).softmax(1)
    parts = [inception_score(part) for part in (p[:10], p[10:20], p[20:])]
    assert inception_score(p, split_size=10) == pytest.approx(sum(parts) / 3)
    assert inception_score(p, split_size=10) != pytest.approx(inception_score(p))
    assert inception_score(p, split_size=25) == inception_score(p)
    # One class a split: within each there is nothing to tell apart.
    assert inception_score(torch.eye(3).repeat_interleave(10, 0), 10) == pytest.approx(1)


def test_by_default_a_split_has_5000_rows() -> None:
    p = torch.eye(2).repeat_interleave(5000, 0)
    assert inception_score(p) == pytest.approx(1)
    assert inception_score(p, split_size=10_000) == pytest.approx(2)
