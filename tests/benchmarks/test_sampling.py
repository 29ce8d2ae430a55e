"""The benchmark of sampling: what it counts and compares."""

import argparse
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from repa.config import SamplerOptions
from repa.models import SiT

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script; its own name is that of a folder of tests."""
    monkeypatch.syspath_prepend(FOLDER)
    spec = spec_from_file_location("sampling_benchmark", FOLDER / "sampling.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def options(mode: str, **changed: float) -> SamplerOptions:
    chosen = {"num_steps": 10, "cfg_scale": 1.8, "guidance_high": 0.7} | changed
    return SamplerOptions(mode=mode, **chosen)


def test_needed_rows_are_those_of_guided_steps_twice(benchmark) -> None:
    needed_rows = benchmark.needed_rows

    # Steps begin at 1, 0.9, ..., 0.1 (ode) and at 1, 0.893, 0.787, 0.68, ..., 0.04 (sde).
    assert needed_rows(options("ode", guidance_high=0.75), 3) == 3 * (10 + 7)
    assert needed_rows(options("sde"), 3) == 3 * (10 + 7)
    assert needed_rows(options("sde", guidance_low=0.1), 3) == 3 * (10 + 6)
    assert needed_rows(options("ode", cfg_scale=1.0), 3) == 30


def test_rows_are_counted_and_the_rest_is_the_models(benchmark) -> None:
    model = SiT(input_size=4, hidden_size=16, depth=1, num_heads=2, num_classes=2).eval()
    counted = benchmark.Counted(model)
    x, t, y = torch.randn(3, 4, 4, 4), torch.rand(3), torch.zeros(3, dtype=torch.int64)
    assert torch.equal(counted(x, t, y=y), model(x, t, y))
    counted(x[:1], t[:1], y[:1])
    assert counted.rows == 4
    assert counted.null_condition(2).tolist() == [2, 2]


def test_ways_of_ours_are_compared_by_their_first_batch(benchmark, tmp_path: Path) -> None:
    from processes import Measured

    arguments = argparse.Namespace(
        model="SiT-Ti/8", batch=2, mode="sde", steps=2, scale=1.8, low=0.0, high=0.7, decode=False
    )
    setting = benchmark.prepare(arguments, tmp_path)
    for name in ("fp32", "bf16"):
        step = benchmark.our_way(setting, name)
        step()
        first = setting.kept(f"ours {name}")
        step()  # other images, which are not kept
        assert np.array_equal(setting.kept(f"ours {name}")[0], first[0])
    taken = Measured(first=3.0, seconds=[0.5], peak=7)
    exact, coarse = (benchmark.row(setting, f"ours {name}", taken) for name in ("fp32", "bf16"))
    assert (exact["images_per_second"], exact["rows_per_image"]) == (4.0, 3.0)
    assert exact["max_difference"] == 0
    assert 0 < coarse["mean_difference"] < coarse["max_difference"] < 1


def test_a_model_that_sees_more_rows_than_needed_fails(
    benchmark, tmp_path: Path, monkeypatch
) -> None:
    arguments = argparse.Namespace(
        model="SiT-Ti/8", batch=1, mode="ode", steps=2, scale=1.8, low=0.0, high=0.7, decode=False
    )
    setting = benchmark.prepare(arguments, tmp_path)
    monkeypatch.setattr(benchmark, "needed_rows", lambda sampler, batch: 2)
    with pytest.raises(AssertionError, match="3 rows instead of 2"):
        benchmark.our_way(setting, "fp32")()
