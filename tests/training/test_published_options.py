"""Options of the release's train.py that ours has besides those of its README."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repa.checkpoints import find_checkpoint, read_state
from repa.cli import main
from repa.errors import RepaError
from repa.files import read_json_lines
from repa.training import train


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:

    folder = run / "checkpoints" / f"{step:07d}"
    files = sorted(folder.glob("*.safetensors"))
    return {f"{f.stem}.{key}": value for f in files for key, value in load_file(f).items()}


def steps(run: Path) -> list[float]:
    return [line["step"] for line in read_json_lines(run / "metrics.jsonl")]


def to_release(run: Path, step: int) -> Path:
    """Replaces our checkpoint of that step by what the release's script saves."""
    folder = run / "checkpoints" / f"{step:07d}"
    file = folder.with_suffix(".pt")
    assert main(["convert", f"--ckpt={folder}", f"--dest={file}", "--to=released"]) == 0
    content = torch.load(file, weights_only=True)
    content.pop("repa")  # the release knows nothing of us
    content["args"] = argparse.Namespace(**content["args"])
    torch.save(content, file)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return file


def test_a_run_of_the_release_is_continued(options) -> None:
    whole = train(options(exp_name="whole"))
    run = train(options(max_train_steps=2))
    file = to_release(run, 2)
    assert find_checkpoint(run) is None
    train(options(resume_step=2))
    assert file.exists()
    assert steps(run) == [1, 2, 3, 4]
    ours, theirs = tensors(whole, 4), tensors(run, 4)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_an_earlier_step_can_be_chosen(options) -> None:
    run = train(options())
    before = tensors(run, 4)
    train(options(resume_step=2))
    assert steps(run) == [1, 2, 3, 4]
    after = tensors(run, 4)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"resume_step": 3},
            "no checkpoint of step 3 in .*run: neither .*3 nor .*0000003.pt",
        ),
        ({"resume_step": 2, "num_classes": 1000}, "different: --num-classes, 9 there"),
        ({"resume_step": 2, "legacy": True}, "different: --cfg-prob or --legacy, 0.1 there"),
        ({"resume_step": 2, "projector_dim": 64}, "different: --projector-dim"),
        (
            {"resume_step": 2, "projection_layer_type": "conv"},
            "different: --projection-layer-type",
        ),
        ({"resume_step": 2, "target_norm": "channel"}, "different: --target-norm"),
    ],
)
def test_a_step_that_cannot_be_continued_is_refused(options, changes, message) -> None:
    train(options(max_train_steps=2))
    with pytest.raises(RepaError, match=message):
        train(options(**changes))


def test_a_refused_release_run_is_left_as_it_was(options) -> None:
    run = train(options(max_train_steps=2))
    to_release(run, 2)
    with pytest.raises(RepaError, match="different: --seed"):
        train(options(resume_step=2, seed=1))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["0000002.pt"]


def test_a_run_of_the_release_is_not_begun_anew(options) -> None:
    run = train(options(max_train_steps=2))
    to_release(run, 2)
    with pytest.raises(RepaError, match="run of the release: --resume-step 2 continues it"):
        train(options())


def test_later_checkpoints_are_not_continued_by_accident(options, monkeypatch) -> None:
    run = train(options())
    # As if killed before its next checkpoint.
    monkeypatch.setattr("repa.training.checkpoint.write_folder", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(options(resume_step=2))
    assert find_checkpoint(run) == run / "checkpoints" / "0000002"
    assert (run / "checkpoints" / "0000004.aside" / "state.json").exists()


def interrupt(*arguments, **named) -> None:
    raise KeyboardInterrupt


def test_other_attention_kernels_continue_a_run(options) -> None:
    train(options(max_train_steps=2))
    assert steps(train(options(fused_attn=False))) == [1, 2, 3, 4]


def test_epochs_end_a_run(options) -> None:
    run = train(options(epochs=1, batch_size=30, max_train_steps=100))
    assert steps(run) == [1, 2]  # 64 images
    with pytest.raises(RepaError, match="past --max-train-steps 1"):
        train(options(epochs=4, batch_size=30, max_train_steps=1))


def test_legacy_drops_labels_twice(options) -> None:
    run = train(options(legacy=True, max_train_steps=1))
    checkpoint = find_checkpoint(run)
    assert checkpoint is not None
    arguments = read_state(checkpoint).model_arguments
    assert arguments["class_dropout_prob"] == pytest.approx(0.19)


def test_trackers_write_where_they_are_told(options) -> None:
    run = train(options(report_to="tensorboard", logging_dir="elsewhere", max_train_steps=1))
    assert list((run / "elsewhere").rglob("events.out.tfevents*"))


def test_none_may_be_written_as_the_release_writes_it(options) -> None:
    run = train(options(enc_type="None", max_train_steps=1))
    assert "alignment_loss" not in read_json_lines(run / "metrics.jsonl")[0]
