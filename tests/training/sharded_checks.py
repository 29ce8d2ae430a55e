"""What `test_sharding.py` has two processes do: `torchrun sharded_checks.py RESULTS`.

Each check trains a small module on this process's half of a batch, and the same module plain on
all of it. RESULTS gets {check: its error, or ""}.
"""

import copy
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor
from torch.distributed.tensor import DTensor

from repa.diffusion import DDPM, FlowMatching
from repa.models import Backbone, DiT, MMDiT, SiT
from repa.training import Batch, TrainingModule
from repa.training.ema import EMA
from repa.training.sharding import ShardedEMA, compile_units, cut_like, gather, shard_training
from repa.training.step import TrainingStep

SMALL = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 2}
TEXT = {"context_dim": 12, "context_length": 4, "mask_padding": True}
DECAY, LIMIT = 0.9, 0.05
PATIENCE = InitProcessGroupKwargs(timeout=timedelta(seconds=60))


def sit() -> Backbone:
    return SiT(**SMALL, num_classes=5, qk_norm=True)


def checkpointed() -> Backbone:
    model = sit()
    model.gradient_checkpointing = True
    return model


def dit() -> Backbone:
    return DiT(**SMALL, num_classes=5)


def mmdit() -> Backbone:
    return MMDiT(**SMALL, **TEXT)


def deep() -> Backbone:
    """More blocks than versions that Dynamo keeps of a function."""
    return SiT(**SMALL | {"depth": 12}, num_classes=5)


def one_class() -> Backbone:
    """Its embedding has fewer rows than there are processes."""
    return SiT(**SMALL, num_classes=1, class_dropout_prob=0.0)


class Twins:
    """The same module twice: sharded, and plain as a reference."""

    def __init__(self, make: Callable[[], Backbone], head: str = "mlp", precision: str = "no"):
        accelerator.state._mixed_precision = precision
        accelerator.native_amp = precision != "no"
        half = precision == "fp16"  # accelerate itself refuses it on a CPU
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if half else None
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        objective = DDPM() if model.objective == "ddpm" else FlowMatching()
        self.module = TrainingModule(model, objective, [24], 1, 0.5, 16, head)
        self.plain = copy.deepcopy(self.module)
        self.plain_ema = EMA(self.plain.model, DECAY)
        self.plain_optimizer = adamw(self.plain)
        self.ema = shard_training(self.module, DECAY, accelerator)
        self.optimizer = adamw(self.module)
        self.step = TrainingStep(
            accelerator, lambda arrays: arrays["batch"], self.module, self.optimizer, self.ema,
            LIMIT,
        )  # fmt: skip

    def train(self, batches: Sequence[Batch]) -> dict[str, float]:
        """A step of these batches; losses averaged over them and over processes."""
        accelerator.gradient_accumulation_steps = len(batches)
        given = [self.step({"batch": half(batch)}) for batch in batches]
        loss = torch.stack([losses["loss"].detach() for losses in given]).mean()
        return {
            "loss": accelerator.reduce(loss, "mean").item(),
            "grad_norm": given[-1]["grad_norm"].item(),
        }

    def train_plain(self, batches: Sequence[Batch]) -> dict[str, float]:
        with accelerator.autocast():
            loss = torch.stack([self.plain(batch)["loss"] for batch in batches]).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.plain.parameters(), LIMIT)
        self.plain_optimizer.step()
        self.plain_optimizer.zero_grad()
        self.plain_ema.update()
        return {"loss": loss.item(), "grad_norm": norm.item()}

    def whole(self) -> dict[str, Tensor]:
        return gather(self.module.state_dict(), torch.device("cpu"))


def adamw(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=1e-3, eps=1e-3, fused=True)


def batch_for(model: Backbone, seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    texts = isinstance(model, MMDiT)
    return Batch(
        x=torch.randn(4, 4, 8, 8, generator=g),
        y=torch.randn(4, 3, 12, generator=g) if texts else torch.zeros(4, dtype=torch.long),
        noise=torch.randn(4, 4, 8, 8, generator=g),
        time_uniform=torch.rand(4, generator=g),
        drop_uniform=torch.rand(4, generator=g),
        targets=[torch.randn(4, 16, 24, generator=g)],
    )


def half(batch: Batch) -> Batch:
    rows = slice(2 * accelerator.process_index, 2 * accelerator.process_index + 2)
    names = ("x", "y", "noise", "time_uniform", "drop_uniform")
    fields = {name: getattr(batch, name)[rows] for name in names}
    return Batch(**fields, targets=[target[rows] for target in batch.targets])


def trains_alike(
    make: Callable[[], Backbone], head: str = "mlp", accumulated: int = 1, compiled: bool = False
) -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    twins = Twins(make, head)
    if compiled:
        compile_units(twins.module, backend="aot_eager")
    for step in range(3):
        batches = [batch_for(twins.plain.model, 10 * step + i) for i in range(accumulated)]
        expected = twins.train_plain(batches)
        assert expected["grad_norm"] > 2 * LIMIT
        found = twins.train(batches)
        for name in expected:
            assert abs(found[name] - expected[name]) < 1e-5, (step, name, found, expected)
    if compiled:  # blocks alike share a graph
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert 2 <= graphs <= 3, graphs
    close(twins.whole(), twins.plain.state_dict())
    averaged = twins.ema.whole()
    assert type(averaged) is type(twins.plain.model)
    assert not any(isinstance(p, DTensor) or p.requires_grad for p in averaged.parameters())
    close(averaged.state_dict(), twins.plain_ema.model.state_dict())
    y = batches[0].y
    with torch.no_grad():  # buffers that no checkpoint has came along
        a, b = (m(batches[0].x, batches[0].time_uniform, y) for m in
                (averaged, twins.plain_ema.model))  # fmt: skip
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert type(found[key]) in (Tensor, torch.nn.Parameter)
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-6, msg=key)


def keeps_half() -> None:
    twins = Twins(sit)
    twins.train([batch_for(twins.plain.model, 0)])
    state = twins.optimizer.state.values()
    kept = {
        "weights": (twins.module.parameters(), twins.plain.parameters()),
        "averages": (twins.ema.model.parameters(), twins.plain.model.parameters()),
        "exp_avg": ([s["exp_avg"] for s in state], twins.plain.parameters()),
        "exp_avg_sq": ([s["exp_avg_sq"] for s in state], twins.plain.parameters()),
    }
    for name, (ours, all_of_it) in kept.items():
        share = sum(t.to_local().numel() for t in ours) / sum(t.numel() for t in all_of_it)
        assert 0.49 < share < 0.51, (name, share)
    assert {p.dtype for p in twins.module.parameters()} == {torch.float32}


def only_who_keeps_a_copy_has_one() -> None:
    twins = Twins(sit)
    first = accelerator.process_index == 0
    assert (twins.ema.whole(keep=first) is not None) == first
    empty = gather(twins.module.state_dict(), torch.device("cpu") if first else None)
    assert bool(empty) == first
    assert isinstance(twins.ema, ShardedEMA)


def skips_a_step_that_is_not_finite() -> None:
    """The flag for the optimizer is a plain tensor without dimensions, its parameters are not."""
    twins = Twins(sit)
    before = twins.whole()
    broken = batch_for(twins.plain.model, 0)
    broken.x[3] = torch.nan  # of one process
    twins.train([broken])
    assert all(torch.equal(v, before[k]) for k, v in twins.whole().items())
    assert {s["step"].item() for s in twins.optimizer.state.values()} == {0}
    twins.train([batch_for(twins.plain.model, 0)])
    assert not all(torch.equal(v, before[k]) for k, v in twins.whole().items())


def half_precision_overflows_together() -> None:
    """One process's batch is too large for float16: both leave the step out."""
    twins = Twins(sit, precision="fp16")
    before = twins.whole()
    broken = batch_for(twins.plain.model, 0)
    broken.x[3] *= 1e6
    twins.train([broken])
    assert all(torch.equal(v, before[k]) for k, v in twins.whole().items())
    assert accelerator.scaler.get_scale() == 512.0
    norm = twins.train([batch_for(twins.plain.model, 0)])["grad_norm"]
    expected = twins.train_plain([batch_for(twins.plain.model, 0)])["grad_norm"]
    assert abs(norm / expected - 1) < 0.02, (norm, expected)
    assert not all(torch.equal(v, before[k]) for k, v in twins.whole().items())


def half_precision_rounds_alike() -> None:
    twins = Twins(dit, precision="bf16")
    for step in range(2):
        batches = [batch_for(twins.plain.model, step)]
        expected, found = twins.train_plain(batches), twins.train(batches)
        assert abs(found["loss"] - expected["loss"]) < 1e-4, (found, expected)
        assert abs(found["grad_norm"] / expected["grad_norm"] - 1) < 1e-2, (found, expected)
    assert {p.dtype for p in twins.module.parameters()} == {torch.float32}


def whole_tensors_are_cut() -> None:
    twins = Twins(sit)
    twins.module.load_state_dict({k: v + 1 for k, v in twins.plain.state_dict().items()})
    for key, tensor in twins.whole().items():
        assert torch.equal(tensor, twins.plain.state_dict()[key] + 1)
    parameter = next(twins.module.parameters())
    whole = torch.arange(parameter.numel()).float().view(parameter.shape)
    assert torch.equal(cut_like(whole, parameter).full_tensor(), whole)
    scalar = torch.tensor(1.0)
    assert cut_like(scalar, parameter) is scalar
    assert cut_like(whole, whole) is whole
    other = TrainingModule(SiT(**SMALL, num_classes=9), FlowMatching(), [24], 1, 0.5, 16)
    with pytest.raises(RuntimeError, match="size mismatch for model.y_embedder.embedding_table"):
        twins.module.load_state_dict(other.state_dict())


CHECKS: dict[str, Callable[[], None]] = {
    "SiT": lambda: trains_alike(sit),
    "DiT": lambda: trains_alike(dit, head="conv"),
    "MMDiT": lambda: trains_alike(mmdit),
    "gradient checkpointing": lambda: trains_alike(checkpointed),
    "accumulation": lambda: trains_alike(sit, accumulated=2),
    "fewer rows than processes": lambda: trains_alike(one_class),
    "compile": lambda: trains_alike(deep, compiled=True),
    "compile with checkpointing": lambda: trains_alike(checkpointed, compiled=True),
    "parts": keeps_half,
    "copies": only_who_keeps_a_copy_has_one,
    "loading": whole_tensors_are_cut,
    "skipped step": skips_a_step_that_is_not_finite,
    "bf16": half_precision_rounds_alike,
    "fp16": half_precision_overflows_together,
}

if __name__ == "__main__":
    accelerator = Accelerator(cpu=True, kwargs_handlers=[PATIENCE])
    results = {}
    for name, check in CHECKS.items():
        try:
            check()
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
            print(f"{name}: {results[name]}", file=sys.stderr)
    accelerator.wait_for_everyone()
    Path(sys.argv[1]).with_suffix(f".{accelerator.process_index}.json").write_text(
        json.dumps(results)
    )
