"""`--eval-every`: samples are measured while the run goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evaluation.tiny import save_tiny_classifier
from repa.errors import RepaError
from repa.training import train

METRICS = {"frechet_distance", "precision", "recall", "inception_score", "kernel_distance"}


@pytest.fixture
def evaluated(options):
    """Options with an evaluation at every second step."""
    values = {
        "enc_type": "none",
        "ema_decay": 0.5,
        "eval_every": 2,
        "eval_samples": 10,
        "eval_batch_size": 4,
        "eval_num_steps": 2,
        "eval_network": "efficientnet-lite0",
    }
    return lambda **changes: options(**(values | changes))


def evaluations(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def test_metrics_are_written_and_training_is_not_disturbed(evaluated) -> None:
    plain = train(evaluated(exp_name="plain", eval_every=None))
    run = train(evaluated(report_to="tensorboard"))
    lines = evaluations(run)
    assert [(line["step"], line["samples"]) for line in lines] == [(2, 10), (4, 10)]
    for line in lines:
        assert line.keys() == {"step", "network", "samples"} | METRICS
        assert all(np.isfinite(line[name]) for name in METRICS)
    assert lines[0]["frechet_distance"] != lines[1]["frechet_distance"]
    assert not (plain / "evaluations.jsonl").exists()
    for name in ("model", "ema", "optimizer"):
        before, after = (
            load_file(folder / "checkpoints" / "0000004" / f"{name}.safetensors")
            for folder in (plain, run)
        )
        assert all(torch.equal(before[key], after[key]) for key in before)
    events = next((run / "logs").rglob("events.out.tfevents*")).read_bytes()
    assert b"eval/frechet_distance" in events


def test_a_resumed_run_repeats_what_a_killed_one_left(evaluated) -> None:
    run = train(evaluated())
    whole = evaluations(run)
    train(evaluated(exp_name="again", max_train_steps=2))
    again = run.with_name("again")
    with (again / "evaluations.jsonl").open("a") as file:
        file.write('{"step": 4, "frechet_distance": -1}\n{"step": 6, "fre')
    assert evaluations(train(evaluated(exp_name="again"))) == whole


def test_two_processes_measure_what_one_does(evaluated, launch) -> None:
    alone = evaluations(train(evaluated(exp_name="alone", max_train_steps=2)))
    [line] = evaluations(launch(evaluated(exp_name="together", max_train_steps=2)))
    for name in ("frechet_distance", "inception_score", "kernel_distance"):
        assert line[name] == pytest.approx(alone[0][name], rel=1e-2), name
    assert (line["step"], line["samples"]) == (2, 10)


def test_a_metric_that_is_not_finite_is_left_out(
    evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its line would be no JSON."""
    metrics = {"frechet_distance": float("nan"), "precision": 0.5, "recall": float("inf")}
    monkeypatch.setattr("repa.training.evaluation.compare", lambda *_: dict(metrics))
    run = train(evaluated(max_train_steps=2))
    [line] = evaluations(run)
    assert line.keys() == {"step", "network", "samples", "precision"}
    assert "NaN" not in (run / "evaluations.jsonl").read_text()


def test_a_reference_of_ones_own(evaluated, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "reference.npz", arr_0=images)
    ours = evaluations(train(evaluated(max_train_steps=2)))
    reference = tmp_path / "reference.npz"
    other = train(evaluated(exp_name="other", max_train_steps=2, eval_reference=reference))
    [line] = evaluations(other)
    assert line["frechet_distance"] != ours[0]["frechet_distance"]
    assert line["inception_score"] == ours[0]["inception_score"]  # of the samples alone


def test_a_classifier_judges_the_classes(evaluated, launch, emoji, tmp_path: Path) -> None:
    file = save_tiny_classifier(tmp_path / "c.safetensors", tuple(emoji.manifest.classes))
    judge = {"eval_network": "classifier", "eval_network_weights": file, "max_train_steps": 2}
    [line] = evaluations(train(evaluated(**judge)))
    assert line.keys() == {"step", "network", "samples", "class_accuracy"} | METRICS
    [other] = evaluations(launch(evaluated(exp_name="together", **judge)))
    assert other["class_accuracy"] == line["class_accuracy"]
    few = save_tiny_classifier(tmp_path / "few.safetensors", ("cat", "dog"))
    with pytest.raises(RepaError, match="--data-dir: label . is none of the classes of classifi"):
        train(evaluated(exp_name="x", **judge | {"eval_network_weights": few}))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_network": "vgg"}, "unknown network 'vgg'"),
        ({"eval_reference": Path("none.npz")}, "none.npz"),
        ({"eval_samples": 3}, "--eval-every: more than 3 images are needed"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(
    evaluated, tmp_path: Path, changes, message
) -> None:
    with pytest.raises(RepaError, match=message):
        train(evaluated(**changes))
    assert not (tmp_path / "run").exists()
