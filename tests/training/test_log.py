"""The log of metrics: averages, the rate, and a file that goes on."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from repa.checkpoints.state import Progress
from repa.errors import RepaError
from repa.files import read_json_lines
from repa.training.log import MetricsLog, keep_until


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("repa.training.log.time", clock)
    return clock


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def test_what_is_added_is_averaged_until_it_is_written(
    clock: Clock, accelerator: Accelerator, tmp_path: Path
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", accelerator, 10, 8)
    for loss in (1.0, 2.0):
        log.add({"loss": torch.tensor(loss)})
        clock.now += 2
    metrics = log.write(12)
    assert metrics == {"loss": 1.5, "images_per_second": 4.0}
    log.add({"loss": torch.tensor(7.0)})
    clock.now += 1
    assert log.write(13) == {"loss": 7.0, "images_per_second": 8.0}
    lines = read_json_lines(tmp_path / "metrics.jsonl")
    assert lines[0] == {"step": 12, "seconds": 4.0, **metrics}
    assert [line["seconds"] for line in lines] == [4.0, 5.0]


def test_a_step_of_several_batches_counts_once(
    clock: Clock, accelerator: Accelerator, tmp_path: Path
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", accelerator, 0, 16)  # two batches of 8
    for norm in (3.0, 5.0):
        log.add({"loss": torch.tensor(1.0)})
        log.add({"loss": torch.tensor(2.0), "grad_norm": torch.tensor(norm)})
        clock.now += 4
    assert log.write(2) == {"loss": 1.5, "grad_norm": 4.0, "images_per_second": 4.0}


def test_pauses_are_left_out_of_the_rate_alone(
    clock: Clock, accelerator: Accelerator, tmp_path: Path
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", accelerator, 0, 8)
    with log.paused():
        clock.now += 30
    log.add({"loss": torch.tensor(1.0)})
    clock.now += 2
    assert log.write(1)["images_per_second"] == 4.0
    assert read_json_lines(log.path)[0]["seconds"] == 32.0


def test_what_is_added_may_change_afterwards(accelerator: Accelerator, tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", accelerator, 0, 8)
    weight = torch.ones((), requires_grad=True)
    loss = weight * 2
    log.add({"loss": loss})
    log.add({"loss": loss})
    assert loss.item() == 2
    assert log.write(2)["loss"] == 2


def test_a_run_goes_on_after_the_lines_of_its_checkpoint(
    clock: Clock, accelerator: Accelerator, tmp_path: Path
) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": step, "seconds": 10.0 * step} for step in (1, 2, 3)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "sec')
    log = MetricsLog(file, accelerator, 2, 8)
    assert read_json_lines(file) == lines[:2]
    log.add({"loss": torch.tensor(1.0)})
    clock.now += 2
    assert log.write(3)["images_per_second"] == 4.0
    assert read_json_lines(file)[-1]["seconds"] == 22.0


def test_what_is_not_finite_is_left_out(accelerator: Accelerator, tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", accelerator, 0, 8)
    for loss in (1.0, float("nan"), 3.0, float("inf")):
        log.add({"loss": torch.tensor(loss), "never": torch.tensor(float("nan"))})
    metrics = log.write(4, skipped=2)
    assert metrics["loss"] == 2
    assert metrics["skipped_steps"] == 2
    assert "never" not in metrics
    assert "NaN" not in log.path.read_text()


def test_a_line_of_two_starts_is_that_of_one(
    clock: Clock, accelerator: Accelerator, tmp_path: Path
) -> None:
    losses = torch.rand(7, generator=torch.Generator().manual_seed(0)) + 1e-3
    lines = []
    for name, stops in (("whole", ()), ("halves", (2, 5))):
        path = tmp_path / f"{name}.jsonl"
        log = MetricsLog(path, accelerator, 0, 8)
        for step, loss in enumerate(losses, 1):
            log.add({"loss": loss, "grad_norm": loss * 3})
            clock.now += 2
            if step == 3:
                log.write(step)
            if step in stops:
                saved = Progress.model_validate_json(log.progress().model_dump_json())
                clock.now += 100  # until the next start
                log = MetricsLog(path, accelerator, step, 8, saved)
        log.write(7)
        lines.append(read_json_lines(path))
    assert lines[0] == lines[1]
    assert lines[0][1]["images_per_second"] == 4.0
    assert lines[0][1]["seconds"] == 14.0


def test_progress_right_after_a_line_is_empty(accelerator: Accelerator, tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", accelerator, 0, 8)
    log.add({"loss": torch.tensor(1.0)})
    log.write(1)
    progress = log.progress()
    assert (progress.sums, progress.counts, progress.written) == ({}, {}, 1)
    again = MetricsLog(tmp_path / "metrics.jsonl", accelerator, 1, 8, progress)
    again.add({"loss": torch.tensor(5.0)})
    assert again.write(2)["loss"] == 5


def test_other_processes_share_what_was_gathered(accelerator: Accelerator, tmp_path: Path) -> None:
    progress = Progress(sums={"loss": [3.0, 5.0]}, counts={"loss": [2, 2]}, written=0)
    log = MetricsLog(tmp_path / "metrics.jsonl", accelerator, 2, 8, progress)
    assert log.write(2)["loss"] == 2


def test_a_damaged_line_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\nhello\n{"step": 2}\n')
    with pytest.raises(RepaError, match=r"metrics\.jsonl"):
        keep_until(file, 1)
    assert keep_until(tmp_path / "none.jsonl", 1) == []


def test_a_step_weighs_the_same_in_other_processes(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    """Two processes took two steps, with losses of 1 and 3 in one of them, 5 and 7 in the other."""
    progress = Progress(sums={"loss": [4.0, 12.0]}, counts={"loss": [2, 2]}, written=0)
    log = MetricsLog(tmp_path / "metrics.jsonl", accelerator, 2, 8, progress)
    log.add({"loss": torch.tensor(10.0)})
    assert log.write(3)["loss"] == (2 + 6 + 10) / 3


def test_fractions_of_counts_outlast_another_start(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    """A value of one process was not finite, and another number of processes goes on twice."""
    path = tmp_path / "metrics.jsonl"
    progress = Progress(sums={"loss": [4.0, 6.0]}, counts={"loss": [2, 3]}, written=0)
    own = MetricsLog(path, accelerator, 3, 8, progress).progress()
    assert own.counts == {"loss": [2.5]}
    log = MetricsLog(path, accelerator, 3, 8, Progress.model_validate_json(own.model_dump_json()))
    assert log.write(3)["loss"] == 2


def test_finite_numbers_whose_sum_is_not_are_left_out(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", accelerator, 0, 8)
    for norm in (3e38, 2.0, 3e38, -3e38, 4.0):
        log.add({"grad_norm": torch.tensor(norm)})
    progress = Progress.model_validate_json(log.progress().model_dump_json())
    assert progress.counts == {"grad_norm": [2]}
    assert log.write(5)["grad_norm"] == 3


@pytest.mark.parametrize("line", ["{}", '{"step": "2"}', '{"step": null}'])
def test_a_line_without_a_step_is_an_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(RepaError, match=r"metrics\.jsonl is damaged: line 2 has no step"):
        keep_until(path, 3)
