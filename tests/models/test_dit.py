import copy

import pytest
import torch

from repa.models import DiT, SiT, Transformer, create_model


def tiny(**changes) -> DiT:
    arguments = {"input_size": 8, "hidden_size": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
    torch.manual_seed(0)
    model = DiT(**(arguments | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_noise_and_variance_are_predicted() -> None:
    x, t, y = torch.randn(2, 4, 8, 8), torch.tensor([0, 999]), torch.tensor([1, 5])
    assert tiny()(x, t, y).shape == (2, 8, 8, 8)
    assert tiny(learn_sigma=False)(x, t, y).shape == (2, 4, 8, 8)


def test_times_are_embedded_as_they_are() -> None:
    model = tiny()
    x, y = torch.randn(2, 4, 8, 8), torch.tensor([1, 1])
    whole = model(x, torch.tensor([3, 700]), y)
    assert torch.equal(whole, model(x, torch.tensor([3.0, 700.0]), y))
    assert not torch.allclose(whole, model(x, torch.tensor([0.003, 0.7]), y))


def test_capture_gives_the_hidden_states() -> None:
    x, t, y = torch.randn(2, 4, 8, 8), torch.tensor([5, 6]), torch.tensor([1, 2])
    model = tiny()
    prediction, hidden = model(x, t, y, capture=(2,))
    assert hidden[2].shape == (2, 16, 32)
    assert torch.equal(prediction, model(x, t, y))


def test_both_families_have_one_body() -> None:
    with torch.device("meta"):
        sit, dit = create_model("SiT-S/2"), create_model("DiT-S/2")
    assert isinstance(sit, Transformer)
    assert isinstance(dit, Transformer)
    ours, theirs = sit.state_dict(), dit.state_dict()
    assert list(ours) == list(theirs)
    differing = {key for key in ours if ours[key].shape != theirs[key].shape}
    assert differing == {"final_layer.linear.weight", "final_layer.linear.bias"}


def test_the_objective_tells_them_apart() -> None:
    assert (SiT.objective, DiT.objective, tiny().objective) == ("flow", "ddpm", "ddpm")


@pytest.mark.parametrize(
    ("name", "millions"), [("DiT-S/2", 33), ("DiT-B/2", 130), ("DiT-L/2", 458), ("DiT-XL/2", 675)]
)
def test_sizes_have_the_published_parameter_counts(name: str, millions: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=1)


def test_a_copy_is_independent_and_equal() -> None:
    model = tiny()
    twin = copy.deepcopy(model)
    x, t, y = torch.randn(2, 4, 8, 8), torch.tensor([5, 6]), torch.tensor([1, 2])
    assert torch.equal(model(x, t, y), twin(x, t, y))
    model.final_layer.linear.bias.data.add_(1)
    assert not torch.equal(model(x, t, y), twin(x, t, y))
