import pytest
import torch

from repa.evaluation.own_image import own_nearer


def test_the_share_of_farther_images_is_counted_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    fake = torch.tensor([[0.1], [1.6], [9.0], [0.5]])
    shares = own_nearer(fake, real, [0, 0, 3, 0])
    # Nearest of all; two of three are nearer; nearest; one is as near, two are farther.
    assert shares.tolist() == pytest.approx([1, 1 / 3, 1, 2.5 / 3])


def test_samples_that_know_nothing_are_at_one_half() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(300, 8), torch.randn(2000, 8)
    shares = own_nearer(fake, real, torch.randint(300, (2000,)).tolist())
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)


def test_copies_are_nearest() -> None:
    real = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert (own_nearer(real, real, range(50)) == 1).all()
