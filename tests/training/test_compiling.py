"""The training module is one graph, compiled once; compiling is chosen where it pays."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from encoders.published import save_published, shrink, timm_state
from repa.config import TrainOptions
from repa.diffusion import DDPM, FlowMatching
from repa.encoders import create_encoder
from repa.models import Backbone, DiT, MMDiT, SiT
from repa.training import Batch, TrainingModule
from repa.training import compiling as compiling_module
from repa.training.compiling import PAYS_FROM, compile_training
from repa.training.ema import EMA
from repa.training.step import TrainingStep

SMALL = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 2}
TEXT = {"context_dim": 12, "context_length": 4}


def batch(seed: int, y: torch.Tensor) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        x=torch.randn(4, 4, 8, 8, generator=generator),
        y=y,
        noise=torch.randn(4, 4, 8, 8, generator=generator),
        time_uniform=torch.rand(4, generator=generator),
        drop_uniform=torch.rand(4, generator=generator),
        targets=[torch.randn(4, 16, dim, generator=generator) for dim in (24, 40)],
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("model", "precision", "head", "loss"),
    [
        (SiT(**SMALL), "bf16", "mlp", "cosine"),
        (SiT(**SMALL, qk_norm=True, fused_attn=False), "no", "conv", "nt-xent"),
        (DiT(**SMALL), "bf16", "mlp", "nt-xent"),
        (MMDiT(**SMALL, **TEXT), "bf16", "conv", "cosine"),
        (MMDiT(**SMALL, **TEXT, mask_padding=True, qk_norm=True), "no", "mlp", "cosine"),
    ],
    ids=["SiT", "SiT-qk-norm", "DiT", "MMDiT", "MMDiT-masked"],
)
def test_steps_are_one_graph_compiled_once(
    model: Backbone, precision: str, head: str, loss: str, checkpointing: bool
) -> None:
    torch.compiler.reset()
    AcceleratorState._reset_state(reset_partial_state=True)
    model.gradient_checkpointing = checkpointing
    objective = DDPM() if model.objective == "ddpm" else FlowMatching()
    module = TrainingModule(model, objective, [24, 40], 1, 0.5, 16, head, loss)
    module.compile(dynamic=False, fullgraph=True, backend="aot_eager")  # a break is an error
    y = torch.randn(4, 5, 12) if isinstance(model, MMDiT) else torch.arange(4)
    step = TrainingStep(
        Accelerator(cpu=True, mixed_precision=precision),
        lambda arrays: batch(arrays["seed"], y + arrays["seed"]),
        module,
        torch.optim.AdamW(module.parameters(), fused=True),
        EMA(model, 0.9),
        1.0,
    )
    losses = [step({"seed": 0})["loss"]]
    with torch.compiler.set_stance("fail_on_recompile"):
        losses += [step({"seed": seed})["loss"] for seed in (1, 2)]
    assert torch.stack(losses).isfinite().all()


@pytest.mark.parametrize("name", ["dinov2-vit-s", "siglip2-vit-b", "efficientnet-lite0"])
def test_encoders_are_one_graph_compiled_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    torch.compiler.reset()
    if "vit" in name:
        shrink(monkeypatch, name)
        save_published(name, timm_state(name), tmp_path)
    encoder = create_encoder(name, 64, grid_size=4, weights=tmp_path if "vit" in name else None)
    images = torch.randint(0, 256, (2, 2, 3, 64, 64), dtype=torch.uint8)
    expected = encoder(images[1])
    encoder.compile(dynamic=False, fullgraph=True, backend="aot_eager")
    encoder(images[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(encoder(images[1]), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("chosen", "device", "triton", "steps", "compiled"),
    [
        (None, "cuda", True, PAYS_FROM, (True, True)),
        (None, "cuda", True, PAYS_FROM - 1, (False, False)),
        (None, "cuda", False, PAYS_FROM, (False, False)),
        (None, "cpu", True, PAYS_FROM, (False, False)),
        (True, "cuda", False, 1, (True, True)),
        (True, "cpu", False, 1, (True, False)),
        (False, "cuda", True, PAYS_FROM, (False, False)),
    ],
)
def test_it_is_compiled_where_that_pays_or_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    options,
    chosen: bool | None,
    device: str,
    triton: bool,
    steps: int,
    compiled: tuple[bool, bool],
) -> None:
    spec = find_spec("torch") if triton else None
    monkeypatch.setattr(compiling_module, "find_spec", lambda _: spec)
    module, encoder = nn.Linear(2, 2), nn.Linear(2, 2)
    some: TrainOptions = options(compile=chosen, max_train_steps=steps)
    with torch._dynamo.config.patch(suppress_errors=False):  # and as it was, afterwards
        compile_training(some, torch.device(device), module, [encoder])
        lenient = torch._dynamo.config.suppress_errors
    assert (is_compiled(module), is_compiled(encoder)) == compiled
    assert lenient is (compiled[0] and chosen is None)


def is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None
