import subprocess
import sys

import pytest
import torch

from repa.errors import RepaError
from repa.evaluation.networks import create_network


def test_an_unknown_network_lists_the_known_ones() -> None:
    with pytest.raises(
        RepaError, match=r"unknown network 'vgg' \(--network, --eval-network\); choose from incept"
    ):
        create_network("vgg")


def test_creating_one_draws_no_random_numbers_of_others() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    create_network("efficientnet-lite0")
    assert torch.equal(torch.rand(1), expected)


def test_the_table_needs_no_library_of_a_network() -> None:
    code = (
        "import sys, repa.evaluation.networks; "
        "sys.exit(any(name in sys.modules for name in ('timm', 'torch_fidelity')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
