import math

import pytest
import torch
import torch.nn.functional as F

from repa.alignment import (
    ALIGNMENT_LOSSES,
    ChannelNormalization,
    ConvProjectionHead,
    ProjectionHead,
    cosine_alignment_loss,
    nt_xent_alignment_loss,
    projection_heads,
    spatial_normalization,
)


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


@pytest.mark.parametrize("name", ALIGNMENT_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_half_precision_values_do_not_overflow(dtype: torch.dtype, name: str) -> None:
    projected = (torch.randn(2, 4, 1024) * 1000).to(dtype).requires_grad_()
    loss = ALIGNMENT_LOSSES[name](projected, torch.randn(2, 4, 1024, dtype=dtype) * 1000)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert projected.grad.isfinite().all()


@pytest.mark.parametrize(("name", "value"), [("cosine", 0), ("nt-xent", math.log(2))])
def test_zero_tokens_give_no_nan(name: str, value: float) -> None:
    projected = torch.zeros(1, 2, 4, requires_grad=True)
    loss = ALIGNMENT_LOSSES[name](projected, torch.randn(1, 2, 4))
    loss.backward()
    assert loss.item() == pytest.approx(value)
    assert projected.grad.isfinite().all()


@pytest.mark.parametrize("name", ALIGNMENT_LOSSES)
def test_different_shapes_are_refused_instead_of_broadcast(name: str) -> None:
    with pytest.raises(ValueError, match="differ"):
        ALIGNMENT_LOSSES[name](torch.randn(2, 1, 8), torch.randn(2, 5, 8))


def test_nt_xent_contrasts_a_token_with_those_of_its_image_one_by_one() -> None:
    projected, target = torch.randn(2, 3, 4, 16).double().unbind(0)
    total = 0.0
    for image, own in zip(projected, target, strict=True):
        for i, token in enumerate(image):
            cosines = torch.stack([F.cosine_similarity(token, other, dim=0) for other in own])
            total -= (cosines / 0.2).log_softmax(0)[i].item() / 12
    assert nt_xent_alignment_loss(projected, target, 0.2).item() == pytest.approx(total, 1e-5)


def test_nt_xent_does_not_depend_on_what_else_is_in_the_batch() -> None:
    projected, target = torch.randn(2, 4, 6, 8).unbind(0)
    halves = [nt_xent_alignment_loss(projected[i::2], target[i::2]) for i in range(2)]
    torch.testing.assert_close(nt_xent_alignment_loss(projected, target), sum(halves) / 2)


def test_nt_xent_is_in_float32_under_autocast() -> None:
    projected, target = torch.randn(2, 4, 6, 64).unbind(0)
    plain = nt_xent_alignment_loss(projected, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent_alignment_loss(projected, target), plain)


def test_spatial_normalization_leaves_how_tokens_of_an_image_differ() -> None:
    tokens = (torch.randn(3, 16, 5) * 4 + 100).half()
    normalized = spatial_normalization(tokens)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized.mean(1), torch.zeros(3, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.std(1), torch.ones(3, 5), atol=1e-4, rtol=0)
    other = spatial_normalization(tokens.float() * 3 - 20)
    torch.testing.assert_close(other, normalized, atol=1e-4, rtol=0)


def test_a_share_of_the_mean_may_stay() -> None:
    tokens = torch.randn(2, 8, 4) + 2
    kept = spatial_normalization(tokens, 0.25) - spatial_normalization(tokens)
    expected = 0.75 * tokens.mean(1, keepdim=True) / (tokens.std(1, keepdim=True) + 1e-6)
    torch.testing.assert_close(kept, expected.expand_as(kept))


def test_an_image_of_equal_tokens_gives_zeros() -> None:
    assert torch.equal(spatial_normalization(torch.ones(1, 4, 3)), torch.zeros(1, 4, 3))


def test_channel_normalization_keeps_what_tells_images_apart() -> None:
    scale = torch.tensor([1.0, 5.0, 0.0])  # the last channel says nothing
    tokens = torch.randn(40, 16, 3) * scale + torch.tensor([100.0, -3.0, 7.0])
    normalize = ChannelNormalization.fit(tokens.split(7))
    torch.testing.assert_close(normalize.mean, tokens.mean((0, 1)), atol=1e-4, rtol=1e-5)
    expected = tokens.flatten(0, 1).std(0, correction=0)
    torch.testing.assert_close(normalize.std, expected, atol=1e-5, rtol=1e-4)
    normalized = normalize(tokens.half())
    assert normalized.dtype == torch.float32
    assert normalized.isfinite().all()
    of_images = normalize(tokens).mean(1)[:, :2]  # (40, 2)
    assert of_images.abs().min() > 0
    torch.testing.assert_close(of_images.mean(0), torch.zeros(2), atol=1e-4, rtol=0)


def test_a_head_has_three_layers_of_the_given_widths() -> None:
    head = ProjectionHead(32, 48, projector_dim=64)
    widths = [layer.weight.shape for layer in head if isinstance(layer, torch.nn.Linear)]
    assert widths == [(64, 32), (64, 64), (48, 64)]
    assert head(torch.randn(2, 16, 32)).shape == (2, 16, 48)


def test_there_is_one_head_for_each_encoder_in_order() -> None:
    heads = projection_heads(32, [24, 40], 16)
    assert [head[-1].out_features for head in heads] == [24, 40]
    convolutions = projection_heads(32, [24, 40], layer="conv")
    assert [head.conv.out_channels for head in convolutions] == [24, 40]


def test_a_convolution_sees_the_neighbors_on_the_grid() -> None:
    head = ConvProjectionHead(8, 3)
    hidden = torch.randn(1, 16, 8)
    changed = hidden.clone()
    changed[0, 5] += 1  # row 1, column 1
    difference = (head(changed) - head(hidden)).abs().sum(-1)[0].reshape(4, 4) > 1e-6
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:3, :3] = True
    assert torch.equal(difference, expected)
