"""Real training runs on real images, in this process and in others."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repa.checkpoints import find_checkpoint, list_checkpoints
from repa.errors import RepaError
from repa.files import read_json_lines
from repa.training import setup, train

TARGET = "efficientnet-lite0"


def weights(run: Path, step: int, name: str = "ema") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{step:07d}" / f"{name}.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_leaves_checkpoints_metrics_previews_and_its_recipe(options) -> None:
    run = train(options(report_to="tensorboard", sampling_steps=4))
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == ["0000002", "0000004"]
    lines = read_json_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert line["loss"] == pytest.approx(
            line["denoising_loss"] + 0.5 * line["alignment_loss"], abs=1e-5
        )
        assert line["images_per_second"] > 0
        assert line["grad_norm"] > 0
    assert (run / "previews" / "0000004.png").stat().st_size > 1000
    assert list((run / "logs").rglob("events.out.tfevents*"))
    assert "enc_type: efficientnet-lite0" in (run / "config.yaml").read_text()


def test_without_wandb_its_metrics_go_to_tensorboard(options, monkeypatch, capsys) -> None:
    monkeypatch.setattr(setup, "find_spec", lambda name: None)
    run = train(options(report_to="wandb", max_train_steps=1))
    assert "wandb is not installed" in capsys.readouterr().err
    assert list((run / "logs").rglob("events.out.tfevents*"))


def test_the_loss_falls(options) -> None:
    run = train(options(max_train_steps=30, checkpointing_steps=100))
    lines = read_json_lines(run / "metrics.jsonl")
    for loss in ("denoising_loss", "alignment_loss"):
        assert lines[-1][loss] < lines[0][loss] - 0.1


def test_a_resumed_run_equals_an_uninterrupted_one(options) -> None:
    whole = train(options(exp_name="whole"))
    train(options(max_train_steps=2))
    resumed = train(options())
    for name in ("model", "ema", "heads", "optimizer"):
        assert same(weights(whole, 4, name), weights(resumed, 4, name)), name
    losses = [
        [line["loss"] for line in read_json_lines(run / "metrics.jsonl")]
        for run in (whole, resumed)
    ]
    assert losses[0] == losses[1]


def test_lines_after_the_checkpoint_are_dropped_on_resume(options) -> None:
    run = train(options(max_train_steps=2))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "seconds": 1, "loss": 99}\n{"step": 4, "lo')
    run = train(options())
    lines = read_json_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[2]["loss"] < 99


def test_plain_and_aligned_runs_start_from_the_same_weights_and_data(options) -> None:
    runs = [
        train(options(exp_name=name, enc_type=name, max_train_steps=1)) for name in ("none", TARGET)
    ]
    first = [read_json_lines(run / "metrics.jsonl")[0]["denoising_loss"] for run in runs]
    assert first[0] == first[1]
    assert not same(weights(runs[0], 1, "model"), weights(runs[1], 1, "model"))
    assert not (find_checkpoint(runs[0]) / "heads.safetensors").exists()


def test_computed_and_cached_features_train_alike(options, emoji_dir: Path, tmp_path: Path) -> None:
    from repa.autoencoders import Pixels
    from repa.data.prepare import prepare
    from repa.data.share import Work
    from repa.data.sources import open_source

    bare = tmp_path / "bare"
    prepare(open_source("twemoji"), bare, 32, Pixels(), {}, max_images=64, work=Work(num_workers=0))
    losses = [
        read_json_lines(train(options(exp_name=name, data_dir=data)) / "metrics.jsonl")[-1]["loss"]
        for name, data in (("cached", emoji_dir), ("computed", bare))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)  # float16 in the cache


def test_accumulated_batches_equal_one_large_batch(options) -> None:
    large = train(options(exp_name="large", batch_size=8))
    small = train(options(exp_name="small", batch_size=4, gradient_accumulation_steps=2))
    for key, tensor in weights(large, 4).items():
        torch.testing.assert_close(weights(small, 4)[key], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "auto", "fp16"])  # fp16 becomes auto on a CPU
def test_other_precisions_train_on_this_cpu(options, precision: str) -> None:
    run = train(options(mixed_precision=precision, max_train_steps=2))
    reference = train(options(exp_name="reference", max_train_steps=2))
    losses = [read_json_lines(r / "metrics.jsonl")[-1]["loss"] for r in (run, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_two_processes_train_like_one(options, launch) -> None:
    alone = train(options(exp_name="alone"))
    run = launch(options(exp_name="together"))
    losses = [[line["loss"] for line in read_json_lines(r / "metrics.jsonl")] for r in (alone, run)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for key, tensor in weights(alone, 4).items():
        torch.testing.assert_close(weights(run, 4)[key], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dir": Path("nowhere")}, "no prepared dataset in nowhere"),
        ({"model": "SiT-Q/2"}, "unknown model"),
        ({"enc_type": "dinov9"}, "unknown encoder 'dinov9'"),
        ({"encoder_depth": 7}, "--encoder-depth 7: the model has 6 blocks"),
        ({"resolution": 64}, "was prepared at 32"),
        ({"num_classes": 3}, "--num-classes 3"),
        ({"enc_type": "dinov2-vit-s", "encoder_weights": Path("no.pth")}, "no weight file no.pth"),
    ],
)
def test_options_that_do_not_fit_leave_nothing_behind(
    options, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(RepaError, match=message) as caught:
        train(options(**changes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "--seed"),
        ({"model": "SiT-Ti/4"}, r"is of SiT-Ti/8, not SiT-Ti/4 \(--model\)"),
        ({"enc_type": "none"}, "--enc-type"),
        ({"resume": "no"}, "--resume no"),
        ({"max_train_steps": 1}, "past --max-train-steps 1"),
    ],
)
def test_another_run_of_the_same_name_is_refused(options, changes: dict, message: str) -> None:
    run = train(options(max_train_steps=2))
    before = (run / "config.yaml").read_text()
    with pytest.raises(RepaError, match=message):
        train(options(**changes))
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    "changes", [{"output_dir": Path("pyproject.toml")}, {"logging_dir": "config.yaml"}]
)
def test_a_folder_that_cannot_be_made_is_said_so(options, changes, monkeypatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(RepaError, match="--output-dir "):
        train(options(report_to="tensorboard", **changes))


def test_metrics_are_json_lines(options) -> None:
    run = train(options(max_train_steps=1))
    [line] = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_training_has_the_same_losses(options) -> None:
    runs = [
        train(options(exp_name=str(compiled), compile=compiled, max_train_steps=2))
        for compiled in (False, True)
    ]
    losses = [[line["loss"] for line in read_json_lines(r / "metrics.jsonl")] for r in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert weights(runs[0], 2).keys() == weights(runs[1], 2).keys()


def test_a_batch_that_does_not_divide_among_processes_is_refused(options, monkeypatch) -> None:
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 3)
    with pytest.raises(RepaError, match=r"^--batch-size 8 does not divide among 3 processes$"):
        setup.start(options())


def test_what_accelerate_refuses_is_one_line(options, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no-such")
    with pytest.raises(RepaError, match=r"^cannot start: [^\n]*is not a valid DynamoBackend$"):
        setup.start(options())


def test_an_autoencoder_that_evaluations_need_and_cannot_have(options, emoji, capsys) -> None:
    """Previews can be done without."""
    record = emoji.manifest.autoencoder.model_copy(update={"name": "/nowhere"})
    dataset = copy.copy(emoji)
    dataset.manifest = emoji.manifest.model_copy(update={"autoencoder": record})
    asked = options(eval_every=2)
    accelerator = setup.start(asked)
    with pytest.raises(RepaError, match=r"^--eval-every 2: unknown autoencoder '/nowhere'"):
        setup.open_autoencoder(asked, dataset, accelerator)
    assert setup.open_autoencoder(options(), dataset, accelerator) is None
    assert "warning: no previews: unknown autoencoder" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(options) -> None:
    run = train(options(max_train_steps=2))
    for folder in list_checkpoints(run):
        (folder / "model.safetensors").unlink()
    message = (
        r"^all checkpoints of \S+run are damaged \(damaged checkpoint: \S+model\.safetensors: No "
        r"such file [^)]+\): choose another --exp-name, or delete them to begin anew$"
    )
    with pytest.raises(RepaError, match=message):
        train(options())


def test_an_error_begins_on_a_line_of_its_own(options, monkeypatch, capfd) -> None:
    def broken(*_: object) -> None:
        raise RepaError("broken")

    monkeypatch.setattr("repa.training.loop.Checkpoints.save", broken)
    with pytest.raises(RepaError, match="^broken$"):
        train(options(enc_type="none", max_train_steps=1))
    assert capfd.readouterr().err.endswith("\n")  # of the progress bar
