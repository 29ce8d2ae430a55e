"""Between host and device. What needs a GPU is skipped without one."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from repa.config import SamplerOptions
from repa.diffusion import DDPM, FlowMatching, GuidedModel
from repa.sampling.transfer import Fetched, to_device

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Copies(TorchDispatchMode):
    """Notes each tensor that goes from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        inputs = [x for x in args if isinstance(x, Tensor)]
        if "copy" in str(function) and any(x.device != result.device for x in inputs):
            self.found.append(str(function))
        return result


@pytest.mark.parametrize(
    ("objective", "mode"),
    [
        (FlowMatching(), "ode"),
        (FlowMatching("cosine", "eps"), "sde"),
        (DDPM(), "ddim"),
        (DDPM(), "ddpm"),
    ],
)
def test_no_step_copies_from_the_host(objective: FlowMatching | DDPM, mode: str) -> None:
    """Each such copy makes the host wait for the device; here that has no numbers at all."""

    def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        assert t.shape == y.shape == (len(x),)
        return torch.cat([x, x], dim=1) if mode.startswith("dd") else x

    x = torch.randn(2, 4, 8, 8, device="meta")
    labels = torch.zeros(2, dtype=torch.int64, device="meta")
    predict = GuidedModel(model, labels, labels, 1.5, guidance_high=0.7)
    options = SamplerOptions(mode=mode, num_steps=5)
    with Copies() as copies:
        objective.sample(predict, x, lambda step: x, mode, options.num_steps)
    assert copies.found == []
    with copies:
        torch.zeros(2).to("meta")
    assert len(copies.found) == 1  # they would have been noted


def test_on_a_cpu_nothing_is_copied() -> None:
    x, y = torch.arange(3), torch.ones(2, 2)
    assert to_device(x, "cpu") is x
    assert [a is b for a, b in zip(Fetched(x, y).wait(), (x, y), strict=True)] == [True, True]


@needs_gpu
def test_what_is_sent_and_fetched_is_the_same() -> None:
    x = torch.randn(64, 4, 32, 32)
    sent = to_device(x, "cuda")
    assert (sent.device.type, sent.dtype) == ("cuda", torch.float32)
    assert to_device(sent, "cuda") is sent
    computed = sent
    for _ in range(1000):  # the copy has to wait for these
        computed = computed + 1 - 1
    fetched = Fetched(sent, computed.isfinite().all(), x)
    assert [y.device.type for y in fetched.wait()] == ["cpu"] * 3
    assert torch.equal(fetched.wait()[0], x)
    assert fetched.wait()[1]
