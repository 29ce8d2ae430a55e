import pytest
import torch
import torch.nn.functional as F

from repa.alignment import ProjectionHead, cosine_alignment_loss, projection_heads


def test_loss_is_minus_one_for_parallel_and_one_for_opposite_tokens() -> None:
    target = torch.randn(2, 5, 8)
    assert cosine_alignment_loss(3 * target, target).item() == pytest.approx(-1)
    assert cosine_alignment_loss(-target, target).item() == pytest.approx(1)


def test_loss_is_the_mean_over_samples_and_tokens_one_by_one() -> None:
    projected, target = torch.randn(3, 7, 16), torch.randn(3, 7, 16)
    total = 0.0
    for z, z_tilde in zip(target, projected, strict=True):
        pairs = zip(z, z_tilde, strict=True)
        total += sum(-(F.normalize(a, dim=0) * F.normalize(b, dim=0)).sum() for a, b in pairs) / 7
    assert cosine_alignment_loss(projected, target).item() == pytest.approx(total.item() / 3, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_half_precision_values_do_not_overflow(dtype: torch.dtype) -> None:
    projected = (torch.randn(2, 4, 1024) * 1000).to(dtype).requires_grad_()
    loss = cosine_alignment_loss(projected, torch.randn(2, 4, 1024, dtype=dtype) * 1000)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert projected.grad.isfinite().all()


def test_zero_tokens_give_no_nan() -> None:
    projected = torch.zeros(1, 2, 4, requires_grad=True)
    loss = cosine_alignment_loss(projected, torch.randn(1, 2, 4))
    loss.backward()
    assert loss.item() == 0
    assert projected.grad.isfinite().all()


def test_different_shapes_are_refused_instead_of_broadcast() -> None:
    with pytest.raises(ValueError, match="differ"):
        cosine_alignment_loss(torch.randn(2, 1, 8), torch.randn(2, 5, 8))


def test_a_head_has_three_layers_of_the_given_widths() -> None:
    head = ProjectionHead(32, 48, projector_dim=64)
    widths = [layer.weight.shape for layer in head if isinstance(layer, torch.nn.Linear)]
    assert widths == [(64, 32), (64, 64), (48, 64)]
    assert head(torch.randn(2, 16, 32)).shape == (2, 16, 48)


def test_there_is_one_head_for_each_encoder_in_order() -> None:
    heads = projection_heads(32, [24, 40], 16)
    assert [head[-1].out_features for head in heads] == [24, 40]
