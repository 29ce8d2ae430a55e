import pytest
import torch

from repa.training.batch_statistics import Statistics, describe
from repa.training.module import Batch


def batch(count: int, value: float = 0.5) -> Batch:
    return Batch(
        x=torch.full((count, 3, 2, 2), value),
        y=torch.arange(count),
        noise=torch.zeros(count, 3, 2, 2),
        time_uniform=torch.linspace(0, 0.5, count),
        drop_uniform=torch.zeros(count),
        targets=[torch.ones(count, 4, 5)],
    )


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    values = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    statistics = Statistics()
    for part in values.split(3):
        statistics.add(part)
    record = statistics.record()
    assert record["min"] == values.min().item()
    assert record["max"] == values.max().item()
    assert record["mean"] == pytest.approx(values.double().mean().item())
    assert record["std"] == pytest.approx(values.double().std(correction=0).item())
    assert record["not_finite"] == 0


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    statistics = Statistics()
    statistics.add(torch.tensor([1.0, torch.nan, 3.0, torch.inf, -torch.inf]))
    assert statistics.record() == {"min": 1, "max": 3, "mean": 2, "std": 1, "not_finite": 3}
    nothing = Statistics()
    nothing.add(torch.tensor([torch.nan]))
    assert nothing.record() == {
        "min": None, "max": None, "mean": None, "std": None, "not_finite": 1
    }  # fmt: skip


def test_images_that_are_not_finite_are_found_over_parts() -> None:
    parts = [batch(3), batch(3)]
    parts[0].targets[0][2, 1, 1] = torch.nan
    parts[1].x[1, 0, 0, 0] = torch.inf
    parts[1].time_uniform[2] = torch.nan
    statistics, broken = describe(parts)
    assert broken == [2, 4, 5]
    assert set(statistics) == {"x", "y", "noise", "time_uniform", "targets_0"}
    assert statistics["targets_0"]["not_finite"] == 1
    assert statistics["y"] == {
        "min": 0, "max": 2, "mean": 1, "std": pytest.approx((2 / 3) ** 0.5), "not_finite": 0
    }  # fmt: skip
