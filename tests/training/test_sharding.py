"""`--fsdp`: two processes that share a model train it as one that has all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from repa.errors import RepaError
from repa.files import read_json_lines
from repa.training import sharding, train
from repa.training.sharding import can_shard, shards
from training.sharded_checks import CHECKS

needs_gloo = pytest.mark.skipif(not can_shard(torch.device("cpu")), reason="no FSDP2 on the CPU")


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What each of the two processes said to each check."""
    folder = tmp_path_factory.mktemp("checked")
    script = Path(__file__).with_name("sharded_checks.py")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(script), str(folder / "results")],
        check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return [json.loads((folder / f"results.{process}.json").read_text()) for process in range(2)]


@needs_gloo
@pytest.mark.parametrize("check", CHECKS)
def test_two_processes_have_what_one_has(checked: list[dict[str, str]], check: str) -> None:
    for result in checked:
        assert not result[check], result[check]


@needs_gloo
def test_a_sharded_run_is_watched_as_any_other(options, launch) -> None:
    values = {
        "enc_type": "none",
        "ema_decay": 0.5,
        "max_train_steps": 2,
        "sampling_steps": 2,
        "eval_every": 2,
        "eval_samples": 10,
        "eval_num_steps": 2,
        "eval_network": "efficientnet-lite0",
        "probe_every": 2,
    }
    alone = train(options(exp_name="alone", **values))
    run = launch(options(exp_name="sharded", fsdp=True, **values))
    assert (run / "previews" / "0000002.png").stat().st_size > 1000
    [expected], [line] = (read_json_lines(r / "evaluations.jsonl") for r in (alone, run))
    for name in ("frechet_distance", "inception_score", "kernel_distance"):
        assert line[name] == pytest.approx(expected[name], rel=1e-2), name
    expected, lines = (read_json_lines(r / "probes.jsonl") for r in (alone, run))
    assert [line["depth"] for line in lines] == [line["depth"] for line in expected]


def test_one_process_keeps_everything_and_says_so(options, capsys) -> None:
    plain, run = (
        train(options(exp_name=str(fsdp), fsdp=fsdp, max_train_steps=1)) for fsdp in (False, True)
    )
    assert "warning: --fsdp: one process keeps everything itself" in capsys.readouterr().err
    losses = [read_json_lines(r / "metrics.jsonl")[0]["loss"] for r in (plain, run)]
    assert losses[0] == losses[1]


def test_old_versions_shard_on_cuda_alone(options, monkeypatch) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(sharding, "FSDPModule", torch.nn.Module)  # which has no such method
    with pytest.raises(RepaError, match=r"--fsdp on the CPU needs PyTorch 2\.8 or newer"):
        shards(options(fsdp=True), accelerator)
    assert can_shard(torch.device("cuda"))
    assert not shards(options(), accelerator)
