import pytest
import torch

from repa.errors import RepaError
from repa.models import MMDiT, create_model


def tiny(**changes) -> MMDiT:
    arguments = {"input_size": 8, "depth": 3, "hidden_size": 32, "num_heads": 2}
    arguments |= {"context_dim": 12, "context_length": 4}
    torch.manual_seed(0)
    model = MMDiT(**(arguments | changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.null_context.normal_()
    return model


def inputs(length: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 4, 8, 8), torch.rand(2), torch.randn(2, length, 12)


def test_the_papers_size_is_24_blocks_of_768() -> None:
    with torch.device("meta"):
        model = create_model("MMDiT-S/2")
    assert (model.depth, model.hidden_size, model.context_embedder.in_features) == (24, 768, 768)
    assert model.joint_blocks[0].x_block.attn.num_heads == 24


def test_a_new_model_predicts_zero() -> None:
    model = MMDiT(input_size=8, depth=3, context_dim=12)
    assert model.hidden_size == 96
    assert (model(*inputs()) == 0).all()


def test_capture_gives_the_images_hidden_states() -> None:
    model, (x, t, y) = tiny(), inputs()
    prediction, hidden = model(x, t, y, capture=(1, 3))
    assert {depth: h.shape for depth, h in hidden.items()} == {
        1: (2, 16, 32), 3: (2, 16, 32)
    }  # fmt: skip
    assert torch.equal(prediction, model(x, t, y))


def test_hidden_states_lie_in_order_in_memory() -> None:
    _, hidden = tiny()(*inputs(), capture=(1, 2, 3))
    assert all(state.is_contiguous() for state in hidden.values())


def test_the_text_matters_and_its_order_does_not() -> None:
    """Its tokens carry their places with them; the model adds none."""
    model, (x, t, y) = tiny(), inputs()
    prediction = model(x, t, y)
    torch.testing.assert_close(model(x, t, y.flip(1)), prediction)
    assert not torch.allclose(model(x, t, y + 1), prediction, atol=1e-3)
    assert model(x, t, y[:, :2]).shape == prediction.shape


@pytest.mark.parametrize("fused", [True, False])
def test_padding_is_not_seen_where_it_is_masked(fused: bool) -> None:
    x, t, y = inputs(3)
    padded = torch.cat([y, torch.zeros(2, 4, 12)], dim=1)
    masking = tiny(mask_padding=True, fused_attn=fused)
    torch.testing.assert_close(masking(x, t, padded), masking(x, t, y))
    released = tiny(fused_attn=fused)
    torch.testing.assert_close(released(x, t, y), masking(x, t, y))
    assert not torch.allclose(released(x, t, padded), released(x, t, y), atol=1e-4)


def test_a_text_may_be_all_padding() -> None:
    x, t, _ = inputs()
    assert tiny(mask_padding=True)(x, t, torch.zeros(2, 3, 12)).isfinite().all()


def test_both_ways_to_attend_agree() -> None:
    fused, explicit = tiny(qk_norm=True), tiny(qk_norm=True, fused_attn=False)
    torch.testing.assert_close(fused(*inputs()), explicit(*inputs()))


def test_texts_are_dropped_to_the_empty_one() -> None:
    model, (_, _, y) = tiny(context_dropout_prob=0.3), inputs()
    dropped = model.drop_condition(y, torch.tensor([0.29, 0.3]))
    assert torch.equal(dropped[1], y[1])
    assert torch.equal(dropped[0, :4], model.null_context)
    assert (dropped[0, 4:] == 0).all()
    short = model.drop_condition(y[:, :2], torch.tensor([0.0, 0.9]))
    assert torch.equal(short[0], model.null_context)
    assert torch.equal(short[1, :2], y[1, :2])
    assert torch.equal(model.null_condition(3)[2], model.null_context)


def test_smaller_and_oblong_inputs_see_the_middle_of_the_positions() -> None:
    model, (x, t, y) = tiny(), inputs()
    assert model(x[:, :, 2:6, :], t, y).shape == (2, 4, 4, 8)
    table = model.pos_embed.unflatten(1, (4, 4))
    assert torch.equal(model.cropped_positions(2, 4), table[:, 1:3].flatten(1, 2))
    assert torch.equal(model.cropped_positions(4, 2), table[:, :, 1:3].flatten(1, 2))
    with pytest.raises(RepaError, match="5 x 4 patches are more than the model's 4 x 4"):
        model(torch.randn(1, 4, 10, 8), t[:1], y[:1])


@pytest.mark.parametrize("shape", [(7, 8), (8, 7)])
def test_sides_that_are_no_whole_patches_are_refused(shape: tuple[int, int]) -> None:
    model, (_, t, y) = tiny(), inputs()
    message = f"an input of {shape[0]} x {shape[1]}: expected multiples of the patch size 2"
    with pytest.raises(RepaError, match=message):
        model(torch.randn(2, 4, *shape), t, y)


def test_saved_and_loaded_it_keeps_the_empty_text(tmp_path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    again = MMDiT.from_pretrained(tmp_path)
    assert torch.equal(again(*inputs()), model(*inputs()))
    assert torch.equal(again.null_context, model.null_context)
