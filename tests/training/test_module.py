import pytest
import torch

from repa.alignment import (
    ConvProjectionHead,
    cosine_alignment_loss,
    nt_xent_alignment_loss,
)
from repa.diffusion import DDPM, FlowMatching
from repa.errors import RepaError
from repa.models import DiT, SiT
from repa.training import Batch, TrainingModule


def model() -> SiT:
    torch.manual_seed(0)
    return SiT(input_size=8, hidden_size=32, depth=3, num_heads=2, num_classes=5)


def batch(targets: tuple[int, ...] = ()) -> Batch:
    torch.manual_seed(1)
    return Batch(
        x=torch.randn(4, 4, 8, 8),
        y=torch.arange(4),
        noise=torch.randn(4, 4, 8, 8),
        time_uniform=torch.rand(4),
        drop_uniform=torch.rand(4),
        targets=[torch.randn(4, 16, dim) for dim in targets],
    )


def test_plain_model_has_the_velocity_loss_alone() -> None:
    losses = TrainingModule(model(), FlowMatching())(batch())
    b = batch()
    assert losses.keys() == {"loss", "denoising_loss"}
    expected = (b.noise - b.x).square().mean()  # a new model predicts zero
    torch.testing.assert_close(losses["loss"], expected)


def test_alignment_is_averaged_over_encoders_and_weighted() -> None:
    module = TrainingModule(
        model(), FlowMatching(), [24, 40], encoder_depth=2, proj_coeff=0.3, projector_dim=16
    )
    b = batch((24, 40))
    losses = module(b)
    t = b.time_uniform
    x_t = FlowMatching().add_noise(b.x, b.noise, t)
    y = module.model.drop_condition(b.y, b.drop_uniform)
    _, hidden = module.model(x_t, t, y, capture=(2,))
    parts = [
        cosine_alignment_loss(head(hidden[2]), target)
        for head, target in zip(module.heads, b.targets, strict=True)
    ]
    torch.testing.assert_close(losses["alignment_loss"], torch.stack(parts).mean())
    torch.testing.assert_close(
        losses["loss"], losses["denoising_loss"] + 0.3 * losses["alignment_loss"]
    )


def test_head_and_loss_can_be_chosen() -> None:
    module = TrainingModule(
        model(),
        FlowMatching(),
        [24],
        encoder_depth=2,
        projection_layer="conv",
        projection_loss="nt-xent",
    )
    assert isinstance(module.heads[0], ConvProjectionHead)
    b = batch((24,))
    x_t = FlowMatching().add_noise(b.x, b.noise, b.time_uniform)
    y = module.model.drop_condition(b.y, b.drop_uniform)
    _, hidden = module.model(x_t, b.time_uniform, y, capture=(2,))
    expected = nt_xent_alignment_loss(module.heads[0](hidden[2]), b.targets[0])
    torch.testing.assert_close(module(b)["alignment_loss"], expected)


def test_denoising_diffusion_is_aligned_in_the_same_way() -> None:
    torch.manual_seed(0)
    dit = DiT(input_size=8, hidden_size=32, depth=3, num_heads=2, num_classes=5)
    module = TrainingModule(dit, DDPM(), [24], encoder_depth=2, projector_dim=16)
    seen = []
    dit.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    b = batch((24,))
    losses = module(b)
    [(x_t, t, _)] = seen
    assert torch.equal(t, (b.time_uniform * 1000).long())
    torch.testing.assert_close(x_t, DDPM().add_noise(b.x, b.noise, t))
    torch.testing.assert_close(losses["mse_loss"], b.noise.square().mean())  # it predicts zero
    parts = losses["mse_loss"] + losses["vb_loss"]
    torch.testing.assert_close(losses["denoising_loss"], parts)
    torch.testing.assert_close(losses["loss"], parts + 0.5 * losses["alignment_loss"])


def test_alignment_reaches_the_blocks_up_to_its_depth_and_no_further() -> None:
    module = TrainingModule(model(), FlowMatching(), [24], encoder_depth=2, projector_dim=16)
    module(batch((24,)))["alignment_loss"].backward()
    reached = [
        any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
        for block in module.model.blocks
    ]
    assert reached == [True, True, False]


def test_dropped_labels_train_the_null_class() -> None:
    module = TrainingModule(model(), FlowMatching())
    torch.nn.init.normal_(module.model.final_layer.linear.weight)
    torch.nn.init.normal_(module.model.final_layer.adaLN_modulation[1].weight)
    b = batch()
    b.drop_uniform = torch.tensor([0.0, 0.5, 0.5, 0.5])
    module(b)["loss"].backward()
    rows = module.model.y_embedder.embedding_table.weight.grad.abs().sum(1) > 0
    assert rows.tolist() == [False, True, True, True, False, True]


@pytest.mark.parametrize("depth", [0, 4])
def test_a_depth_beyond_the_model_is_refused(depth: int) -> None:
    with pytest.raises(RepaError, match="3 blocks"):
        TrainingModule(model(), FlowMatching(), [24], encoder_depth=depth)


def test_a_missing_target_is_an_error() -> None:
    module = TrainingModule(model(), FlowMatching(), [24, 40], encoder_depth=2, projector_dim=16)
    with pytest.raises(ValueError, match="zip"):
        module(batch((24,)))
