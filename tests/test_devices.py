import pytest
import torch

from repa import devices
from repa.devices import pick_device, pick_precision
from repa.errors import RepaError


def test_the_cpu_can_always_be_picked() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(None).type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["abacus", "", "meta:x"])
def test_a_device_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(RepaError, match="--device") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "no")])
def test_auto_on_a_cpu_is_bf16_where_the_processor_has_it(monkeypatch, has_bf16, expected) -> None:
    monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: has_bf16)
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) == expected
    assert pick_precision("fp16", cpu) == expected
    assert pick_precision("no", cpu) == "no"
    assert pick_precision("bf16", cpu) == "bf16"


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_cuda_is_bf16_or_fp16(monkeypatch, has_bf16, expected) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert pick_precision("auto", torch.device("cuda")) == expected
    assert pick_precision("no", torch.device("cuda")) == "no"
