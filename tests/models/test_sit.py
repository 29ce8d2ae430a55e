import pytest
import torch

from repa.errors import RepaError
from repa.models import MODEL_NAMES, SiT, create_model
from repa.models.layers import sincos_position_embedding, unpatchify


def tiny(**changes) -> SiT:
    arguments = {"input_size": 8, "hidden_size": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
    return SiT(**(arguments | changes))


def inputs(model: SiT, n: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, model.in_channels, model.input_size, model.input_size, generator=generator)
    return x, torch.rand(n, generator=generator), torch.arange(n) % model.num_classes


def wake(model: SiT) -> SiT:
    """Gives the zero-initialized layers values, so that all inputs matter."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize(
    ("name", "millions"), [("SiT-S/2", 33), ("SiT-B/2", 130), ("SiT-L/2", 458), ("SiT-XL/2", 675)]
)
def test_sizes_have_the_published_parameter_counts(name: str, millions: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=1)


def test_every_name_makes_a_model_of_its_patch_size() -> None:
    assert len(MODEL_NAMES) == 36
    for name in MODEL_NAMES:
        with torch.device("meta"):
            model = create_model(name, input_size=32)
        assert model.patch_size == int(name[-1])


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RepaError, match=r"unknown model 'SiT-M/2'.*SiT-XL/2"):
        create_model("SiT-M/2")


def test_a_new_model_predicts_zero() -> None:
    model = tiny()
    assert model(*inputs(model)).abs().max() == 0


def test_prediction_has_the_shape_of_the_input() -> None:
    for changes in ({}, {"patch_size": 4, "in_channels": 3}, {"input_size": 12, "patch_size": 2}):
        model = tiny(**changes)
        x, t, y = inputs(model)
        assert model(x, t, y).shape == x.shape


def test_time_class_and_every_block_matter() -> None:
    model = wake(tiny())
    x, t, y = inputs(model)
    prediction = model(x, t, y)
    assert not torch.allclose(prediction, model(x, t / 2, y))
    assert not torch.allclose(prediction, model(x, t, (y + 1) % 5))
    for block in model.blocks:
        block.attn.proj.weight.data.mul_(2)
        changed = model(x, t, y)
        assert not torch.allclose(prediction, changed)
        prediction = changed


def test_capture_gives_the_state_after_each_block_and_the_same_prediction() -> None:
    model = wake(tiny())
    x, t, y = inputs(model)
    seen = {}
    for depth, block in enumerate(model.blocks, start=1):
        block.register_forward_hook(lambda _, __, out, depth=depth: seen.update({depth: out}))
    prediction, hidden = model(x, t, y, capture=(1, 3))
    assert hidden.keys() == {1, 3}
    for depth, state in hidden.items():
        assert state.shape == (4, 16, 32)
        assert torch.equal(state, seen[depth])
    assert torch.equal(prediction, model(x, t, y))


def test_captured_states_can_be_reduced_at_once() -> None:
    model = wake(tiny())
    x, t, y = inputs(model)
    order: list[object] = []
    for depth, block in enumerate(model.blocks, start=1):
        block.register_forward_hook(lambda *_, depth=depth: order.append(depth))

    def reduce(hidden: torch.Tensor) -> torch.Tensor:
        order.append("reduced")
        return hidden.mean(1)

    prediction, reduced = model(x, t, y, capture=(1, 3), reduce=reduce)
    assert order == [1, "reduced", 2, 3, "reduced"]
    plain, hidden = model(x, t, y, capture=(1, 3))
    assert torch.equal(prediction, plain)
    for depth in (1, 3):
        assert torch.equal(reduced[depth], hidden[depth].mean(1))


def test_hidden_states_lie_in_order_in_memory() -> None:
    """Of a transposed one every norm would make a copy, and every sum would be slow."""
    model = wake(tiny())
    _, hidden = model(*inputs(model), capture=(1, 2, 3))
    assert all(state.is_contiguous() for state in hidden.values())


def test_patches_are_projected_as_by_the_convolution() -> None:
    model = tiny(patch_size=4, in_channels=3).double()
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    expected = model.x_embedder.proj(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.x_embedder(x), expected)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_fused_and_explicit_attention_agree(qk_norm: bool) -> None:
    fused = wake(tiny(qk_norm=qk_norm, fused_attn=True))
    explicit = tiny(qk_norm=qk_norm, fused_attn=False)
    explicit.load_state_dict(fused.state_dict())
    torch.testing.assert_close(fused(*inputs(fused)), explicit(*inputs(fused)))


def test_labels_are_dropped_where_the_number_is_below_the_probability() -> None:
    model = tiny(class_dropout_prob=0.25)
    y = torch.tensor([0, 1, 2, 3])
    dropped = model.drop_condition(y, torch.tensor([0.0, 0.24, 0.25, 0.9]))
    assert dropped.tolist() == [5, 5, 2, 3]
    assert model.null_class == 5


def test_without_dropout_there_is_no_null_class() -> None:
    model = tiny(class_dropout_prob=0.0)
    assert model.y_embedder.embedding_table.num_embeddings == 5
    assert model.drop_condition(torch.tensor([3]), torch.zeros(1)).tolist() == [3]
    with pytest.raises(RepaError, match="null class"):
        _ = model.null_class


@pytest.mark.parametrize(
    "changes",
    [{"patch_size": 3}, {"num_heads": 3}, {"hidden_size": 34}, {"decoder_hidden_size": 64}],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict) -> None:
    with pytest.raises(RepaError):
        tiny(**changes)


def test_unpatchify_inverts_cutting_into_patches() -> None:
    x = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    patches = x.reshape(2, 3, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, 12)
    assert torch.equal(unpatchify(patches, 2, 4), x)
    oblong = unpatchify(patches[:, :12], 2, 3)  # three rows of four
    assert torch.equal(oblong, x[:, :, :6])


def test_positions_are_distinct_and_bounded() -> None:
    positions = sincos_position_embedding(64, 16)[0]
    assert positions.shape == (256, 64)
    assert positions.abs().max() <= 1
    distances = torch.cdist(positions, positions) + torch.eye(256)
    assert distances.min() > 0.5
