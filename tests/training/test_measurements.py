"""What is drawn and measured between steps, once a step, whenever the run is killed."""

import os
import signal
from pathlib import Path

import pytest

from repa.checkpoints import list_checkpoints, read_state
from repa.errors import PreemptedError, RepaError
from repa.files import append_json, read_json_lines
from repa.training import analysis, train
from repa.training.checkpoint import Checkpoints
from repa.training.measurements import Measurements
from repa.training.step import TrainingStep


@pytest.fixture
def measured(options):
    """Options of a run whose steps are all compared with an encoder."""
    values = {
        "enc_type": "none",
        "max_train_steps": 2,
        "align_every": 1,
        "align_enc_type": "efficientnet-lite0",
        "analysis_images": 16,
    }
    return lambda **changes: options(**(values | changes))


def interrupted(self, arrays, taken=TrainingStep.__call__):
    losses = taken(self, arrays)
    os.kill(os.getpid(), signal.SIGTERM)
    return losses


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def steps(path: Path) -> list[int]:
    return sorted({line["step"] for line in read_json_lines(path)})


def test_what_a_next_start_measures_is_written_once(measured, monkeypatch) -> None:
    """A signal at step 1, and a kill after the next start has measured it."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", interrupted)
        with pytest.raises(PreemptedError):
            train(measured())
    signal.signal(signal.SIGTERM, before)
    run = measured().output_dir / "run"
    [checkpoint] = list_checkpoints(run)
    assert read_state(checkpoint).progress.unmeasured
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(measured())
    assert steps(run / "alignments.jsonl") == [1, 2]
    train(measured())
    lines = read_json_lines(run / "alignments.jsonl")
    assert [(line["step"], line["depth"]) for line in lines] == [
        (step, depth) for step in (1, 2) for depth in range(1, 7)
    ]


def test_what_is_not_finite_is_left_out_of_the_file(measured, monkeypatch) -> None:
    compare = analysis.compare
    found = []

    def broken(a, b) -> dict[str, float]:
        found.append(compare(a, b))
        return found[-1] | ({"cknna": float("nan")} if len(found) == 2 else {})

    monkeypatch.setattr(analysis, "compare", broken)
    run = train(measured(max_train_steps=1))
    assert len(found) > 2
    assert len(read_json_lines(run / "alignments.jsonl")) == len(found) - 1
    assert "NaN" not in (run / "alignments.jsonl").read_text()


def test_a_log_that_cannot_be_written_is_a_clear_error(measured, monkeypatch) -> None:
    run = measured().output_dir / "run"
    run.mkdir()
    append_json(run / "alignments.jsonl", {"step": 9})
    write = Path.open

    def full(self: Path, mode: str = "r", *arguments, **named):
        if self.name == "alignments.jsonl.partial":
            raise OSError(28, "No space left on device", str(self))
        return write(self, mode, *arguments, **named)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RepaError, match=r"alignments\.jsonl\.partial cannot be written: No space"):
        train(measured())
    assert read_json_lines(run / "alignments.jsonl") == [{"step": 9}]


@pytest.mark.parametrize(
    ("step", "options_due", "due"),
    [
        (1, {}, False),
        (10, {}, True),
        (6, {"eval_every": 3}, True),
        (7, {"eval_every": 3, "probe_every": 2, "align_every": 5}, False),
    ],
)
def test_anything_due(options, step: int, options_due: dict, due: bool) -> None:
    measurements = Measurements.__new__(Measurements)
    measurements.options = options(sampling_steps=10, **options_due)
    assert measurements.due(step) is due
