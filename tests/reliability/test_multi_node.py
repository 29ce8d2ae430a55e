"""Two machines of one process each: two local addresses, launched in each documented way."""

from pathlib import Path

import pytest

from reliability.jobs import TRAIN, Job, free_port, full_only, start, start_tasks
from repa.cli import main
from repa.files import read_json_lines

pytestmark = pytest.mark.promise("4 several processes")

SCRIPT = str(Path(__file__).parents[2] / "train.py")
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


def torchrun(output: Path, arguments: list[str]) -> Job:
    port = free_port()
    commands = [
        ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1",
         f"--master-addr={FIRST}", f"--master-port={port}", f"--local-addr={address}",
         SCRIPT, *arguments]
        for rank, address in enumerate((FIRST, SECOND))
    ]  # fmt: skip
    return start(output, commands, [{}, {}])


def accelerate(output: Path, arguments: list[str]) -> Job:
    port = free_port()
    commands = [
        ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=2", "--num_processes=2",
         f"--machine_rank={rank}", f"--main_process_ip={FIRST}", f"--main_process_port={port}",
         "--mixed_precision=no", "--dynamo_backend=no", SCRIPT, *arguments]
        for rank in range(2)
    ]  # fmt: skip
    return start(output, commands, [{}, {}])


def tasks(output: Path, arguments: list[str]) -> Job:
    return start_tasks(output, 2, SCRIPT, *arguments, hosts=2)


@full_only
def test_two_machines_train_like_one(emoji_dir: Path, tmp_path: Path, survived) -> None:
    def arguments(name: str) -> list[str]:
        folders = [f"--data-dir={emoji_dir}", f"--output-dir={tmp_path}", f"--exp-name={name}"]
        return [*folders, *TRAIN, "--max-train-steps=3"]

    def losses(name: str) -> list[float]:
        return [line["loss"] for line in read_json_lines(tmp_path / name / "metrics.jsonl")]

    assert main(["train", *arguments("alone")]) == 0
    for launch in (torchrun, accelerate, tasks):
        job = launch(tmp_path / f"{launch.__name__}.txt", arguments(launch.__name__))
        assert job.wait(120) == [0, 0], job.text
        [started] = read_json_lines(tmp_path / launch.__name__ / "starts.jsonl")
        assert started["processes"] == 2
        assert losses(launch.__name__) == pytest.approx(losses("alone"), abs=1e-5)
        survived()
