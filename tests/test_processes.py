import pytest
import torch

from repa.processes import gather_rows, share


@pytest.mark.parametrize("count", [0, 1, 3, 10, 50_000])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_shares_are_all_things_in_order_and_about_equal(count: int, processes: int) -> None:
    shares = [share(count, process, processes) for process in range(processes)]
    assert [index for part in shares for index in part] == list(range(count))
    lengths = [len(part) for part in shares]
    assert max(lengths) - min(lengths) <= 1


def test_one_process_has_gathered_already() -> None:  # several: tests/evaluation/test_processes.py
    rows = torch.randn(3, 2, 4)
    assert gather_rows(rows) is rows
