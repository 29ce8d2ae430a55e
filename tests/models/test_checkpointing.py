"""Gradient checkpointing: the same losses and gradients, with less kept in between."""

from typing import Any

import pytest
import torch
from torch import Tensor

from repa.models import Backbone, DiT, MMDiT, SiT

SMALL = {"input_size": 8, "hidden_size": 32, "depth": 4, "num_heads": 2}
TEXT = {"context_dim": 12, "context_length": 4}
MODELS: dict[str, tuple[type[Backbone], dict[str, Any]]] = {
    "SiT": (SiT, SMALL),
    "SiT-qk-norm": (SiT, SMALL | {"qk_norm": True, "fused_attn": False}),
    "DiT": (DiT, SMALL),
    "MMDiT": (MMDiT, SMALL | TEXT),
    "MMDiT-masked": (MMDiT, SMALL | TEXT | {"mask_padding": True}),
}
each = pytest.mark.parametrize("name", MODELS)


def awake(name: str, checkpointing: bool) -> Backbone:
    """With no weights of zero, so that all of them get gradients."""
    kind, arguments = MODELS[name]
    model = kind(**arguments)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.gradient_checkpointing = checkpointing
    return model


def inputs(name: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(2, 4, 8, 8, generator=generator), torch.rand(2, generator=generator)
    if "MMDiT" not in name:
        return x, t, torch.tensor([0, 3])
    y = torch.randn(2, 5, 12, generator=generator)
    y[0, 3:] = 0  # padding
    return x, t, y


def loss(model: Backbone, name: str) -> Tensor:
    prediction, hidden = model(*inputs(name), capture=(2,))
    return prediction.square().mean() + hidden[2].square().mean()


@each
def test_losses_and_gradients_are_the_same(name: str) -> None:
    plain, checkpointed = awake(name, False), awake(name, True)
    values = [loss(model, name) for model in (plain, checkpointed)]
    assert torch.equal(*values)
    for value in values:
        value.backward()
    gradients = {key: p.grad for key, p in checkpointed.named_parameters()}
    for key, parameter in plain.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, key
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=0, atol=1e-6)


@each
def test_less_is_kept_for_the_backward_pass(name: str) -> None:
    plain, checkpointed = (kept_bytes(awake(name, on), name) for on in (False, True))
    assert checkpointed < plain / 2


@each
def test_nothing_is_computed_anew_where_there_are_no_gradients(name: str) -> None:
    model = awake(name, True)
    with torch.no_grad():
        expected = loss(awake(name, False), name)
        assert torch.equal(loss(model, name), expected)


def kept_bytes(model: Backbone, name: str) -> int:
    """Of the tensors that a forward pass keeps, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss(model, name)
    assert value.requires_grad
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)
