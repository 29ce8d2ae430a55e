import torch

from repa.training.ema import EMA


def test_average_follows_the_formula() -> None:
    model = torch.nn.Linear(3, 2)
    expected = model.weight.detach().clone()
    ema = EMA(model, 0.9)
    for step in range(5):
        with torch.no_grad():
            model.weight.add_(step + 1.0)
        ema.update()
        expected = 0.9 * expected + 0.1 * model.weight.detach()
    torch.testing.assert_close(ema.model.weight, expected)


def test_average_is_frozen_and_separate() -> None:
    model = torch.nn.Linear(3, 2)
    ema = EMA(model, 0.5)
    assert not any(p.requires_grad for p in ema.model.parameters())
    before = model.weight.detach().clone()
    ema.model.weight.zero_()
    assert torch.equal(model.weight, before)


def test_a_plain_average_is_whole_as_it_is() -> None:
    ema = EMA(torch.nn.Linear(3, 2), 0.5)
    assert ema.whole() is ema.model
    assert ema.whole(keep=False) is None
