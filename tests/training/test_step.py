"""A step of training: accumulation, clipping, scaled losses, and nothing that waits."""

from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from repa.diffusion import DDPM, FlowMatching
from repa.models import Backbone, DiT, MMDiT, SiT
from repa.training import Batch, TrainingModule
from repa.training.ema import EMA
from repa.training.step import TrainingStep

SMALL = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 2}
RATE, DECAY, SCALE = 0.1, 0.9, 1024.0


@pytest.fixture
def accelerator() -> Callable[..., Accelerator]:
    def make(**arguments) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(cpu=True, **arguments)

    return make


@pytest.fixture
def in_half_precision(accelerator: Callable[..., Accelerator]) -> Accelerator:
    """As on CUDA; accelerate itself refuses it on a CPU."""
    made = accelerator()
    made.state._mixed_precision, made.native_amp = "fp16", True
    made.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    return made


def training_module() -> TrainingModule:
    torch.manual_seed(0)
    model = SiT(**SMALL, num_classes=5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return TrainingModule(model, FlowMatching(), [24], encoder_depth=1, projector_dim=16)


def batch(rows: slice = slice(None)) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        x=torch.randn(4, 4, 8, 8, generator=generator)[rows],
        y=torch.arange(4)[rows],
        noise=torch.randn(4, 4, 8, 8, generator=generator)[rows],
        time_uniform=torch.rand(4, generator=generator)[rows],
        drop_uniform=torch.rand(4, generator=generator)[rows],
        targets=[torch.randn(4, 16, 24, generator=generator)[rows]],
    )


def training_step(
    accelerator: Accelerator, module: TrainingModule, max_grad_norm: float = 1e6
) -> TrainingStep:
    """Of gradient descent, so that a step is its gradient."""
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, fused=True)
    return TrainingStep(
        accelerator, lambda arrays: arrays["batch"], module, optimizer, EMA(module.model, DECAY),
        max_grad_norm,
    )  # fmt: skip


class MetaAdamW(torch.optim.AdamW):
    """Not fused, as none is there: takes note of the flag that a fused one would look at."""

    def step(self, closure: None = None) -> None:
        assert self.found_inf.device.type == "meta"
        self.found_inf = None
        super().step()


def weights(module: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).clone()


def gradient_of(module: TrainingModule) -> Tensor:
    """Of the whole batch, in float32."""
    gradients = torch.autograd.grad(module(batch())["loss"], list(module.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def test_a_step_follows_the_gradient_and_the_average_follows_the_step(
    accelerator: Callable[..., Accelerator],
) -> None:
    module = training_module()
    before, average, gradient = weights(module), weights(module.model), gradient_of(module)
    step = training_step(accelerator(), module)
    losses = step({"batch": batch()})
    torch.testing.assert_close(weights(module), before - RATE * gradient)
    torch.testing.assert_close(losses["grad_norm"], gradient.norm())
    expected = DECAY * average + (1 - DECAY) * weights(module.model)
    torch.testing.assert_close(weights(step.ema.model), expected)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_accumulated_batches_are_one_step(accelerator: Callable[..., Accelerator]) -> None:
    module, whole = training_module(), training_module()
    halves = [batch(slice(0, 2)), batch(slice(2, 4))]
    torch.stack([whole(half)["loss"] for half in halves]).mean().backward()
    limit = 0.01
    norm = torch.nn.utils.clip_grad_norm_(whole.parameters(), limit)
    assert norm > 2 * limit
    expected = torch.cat([(p - RATE * p.grad).detach().flatten() for p in whole.parameters()])

    step = training_step(accelerator(gradient_accumulation_steps=2), module, limit)
    before, average = weights(module), weights(module.model)
    assert "grad_norm" not in step({"batch": halves[0]})
    assert torch.equal(weights(module), before)
    assert torch.equal(weights(step.ema.model), average)

    torch.testing.assert_close(step({"batch": halves[1]})["grad_norm"], norm)
    torch.testing.assert_close(weights(module), expected)
    followed = DECAY * average + (1 - DECAY) * weights(module.model)
    torch.testing.assert_close(weights(step.ema.model), followed)

    assert "grad_norm" not in step({"batch": halves[0]})  # the next step has begun
    torch.testing.assert_close(weights(module), expected)


def test_gradients_are_clipped_and_their_norm_is_told_as_it_was(
    accelerator: Callable[..., Accelerator],
) -> None:
    module = training_module()
    before, gradient = weights(module), gradient_of(module)
    limit = gradient.norm().item() / 3
    losses = training_step(accelerator(), module, limit)({"batch": batch()})
    torch.testing.assert_close(losses["grad_norm"], gradient.norm())
    moved = before - weights(module)
    torch.testing.assert_close(moved, RATE * gradient / 3, rtol=1e-4, atol=1e-6)


def test_scaled_losses_move_the_weights_as_plain_ones_do(in_half_precision: Accelerator) -> None:
    module = training_module()
    before, gradient = weights(module), gradient_of(module)
    limit = gradient.norm().item() / 3
    losses = training_step(in_half_precision, module, limit)({"batch": batch()})
    assert losses["loss"].dtype == torch.float32
    torch.testing.assert_close(losses["grad_norm"], gradient.norm(), rtol=1e-2, atol=0)
    moved = before - weights(module)
    assert (moved - RATE * gradient / 3).norm() < 0.02 * moved.norm()
    assert in_half_precision.scaler.get_scale() == SCALE


def test_a_step_that_overflows_is_left_out(in_half_precision: Accelerator) -> None:
    module = training_module()
    before, average = weights(module), weights(module.model)
    step = training_step(in_half_precision, module)
    broken = batch()
    broken.x = broken.x * 1e6  # more than float16 holds
    assert not step({"batch": broken})["grad_norm"].isfinite()
    assert torch.equal(weights(module), before)
    torch.testing.assert_close(weights(step.ema.model), average)
    assert in_half_precision.scaler.get_scale() == SCALE / 2
    assert step({"batch": batch()})["grad_norm"].isfinite()
    assert not torch.equal(weights(module), before)


@pytest.mark.parametrize("field", ["x", "noise", "targets"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(
    accelerator: Callable[..., Accelerator], field: str, value: float
) -> None:
    module, other = training_module(), training_module()
    steps = [
        TrainingStep(
            accelerator(), lambda arrays: arrays["batch"], m,
            torch.optim.AdamW(m.parameters(), lr=RATE, fused=True), EMA(m.model, DECAY), 1.0,
        )
        for m in (module, other)
    ]  # fmt: skip
    broken = batch()
    tensor = broken.targets[0] if field == "targets" else getattr(broken, field)
    tensor[2].view(-1)[5] = value
    for step in steps:
        step({"batch": batch()})
    before = weights(module)
    assert not steps[0]({"batch": broken})["grad_norm"].isfinite()
    assert torch.equal(weights(module), before)
    # Moments and their number of steps too: what follows is as if it had never been.
    for step in steps:
        assert step({"batch": batch()})["grad_norm"].isfinite()
    assert torch.equal(weights(module), weights(other))
    assert not torch.equal(weights(module), before)


def test_one_accumulated_batch_that_is_not_finite_leaves_out_the_step(
    accelerator: Callable[..., Accelerator],
) -> None:
    module = training_module()
    step = training_step(accelerator(gradient_accumulation_steps=2), module)
    before = weights(module)
    broken = batch(slice(0, 2))
    broken.x[0, 0, 0, 0] = torch.nan
    step({"batch": broken})
    assert not step({"batch": batch(slice(2, 4))})["grad_norm"].isfinite()
    assert torch.equal(weights(module), before)
    for half in (slice(0, 2), slice(2, 4)):  # the next step is not touched by it
        losses = step({"batch": batch(half)})
    assert losses["grad_norm"].isfinite()
    assert not torch.equal(weights(module), before)


def test_a_loss_that_overflows_with_finite_gradients_is_left_out(
    accelerator: Callable[..., Accelerator],
) -> None:
    module = training_module()
    step = training_step(accelerator(), module)
    before = weights(module)
    forward = module.forward
    module.forward = lambda batch: {"loss": forward(batch)["loss"] + torch.inf}
    assert not step({"batch": batch()})["grad_norm"].isfinite()
    assert torch.equal(weights(module), before)


@pytest.mark.parametrize("head", ["mlp", "conv"])
@pytest.mark.parametrize(
    "model",
    [
        SiT(**SMALL),
        DiT(**SMALL),
        MMDiT(**SMALL, context_dim=12, context_length=4, mask_padding=True),
    ],
    ids=["SiT", "DiT", "MMDiT"],
)
def test_no_value_is_fetched_from_the_device(
    accelerator: Callable[..., Accelerator], model: Backbone, head: str
) -> None:
    """On the meta device there are none: whatever needs one (`item`, a mask) is an error."""
    objective = DDPM() if model.objective == "ddpm" else FlowMatching(weighting="lognormal")
    module = TrainingModule(model, objective, [24], 1, 0.5, 16, head).to("meta")
    y = torch.zeros((4, 5, 12) if isinstance(model, MMDiT) else 4, dtype=torch.long)
    one = batch()
    fields = (one.x, y, one.noise, one.time_uniform, one.drop_uniform)
    moved = Batch(*(field.to("meta") for field in fields), targets=[one.targets[0].to("meta")])
    step = TrainingStep(
        accelerator(device_placement=False), lambda _: moved, module,
        MetaAdamW(module.parameters(), foreach=True), EMA(model, DECAY), 1.0,
    )  # fmt: skip
    for _ in range(2):
        losses = step({})
    assert {loss.device.type for loss in losses.values()} == {"meta"}
