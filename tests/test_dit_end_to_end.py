"""DiT through every command, plain and aligned, as users of SiT type them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from checkpoints.files import assert_same, random_model
from repa.autoencoders import create_autoencoder
from repa.checkpoints import load_model
from repa.cli import main
from repa.diffusion import DDPM, GuidedModel, sample_ddpm
from repa.files import read_json_lines
from repa.models import DiT
from repa.sampling.noise import ImageNoise

TARGET = "efficientnet-lite0"
# The published command line, with another model.
PUBLISHED = "--model DiT-Ti/8 --path-type linear --prediction v --weighting uniform --seed 0"


def train(data: Path, out: Path, name: str, *arguments: str) -> Path:
    words = ["train", f"--data-dir={data}", f"--output-dir={out}", f"--exp-name={name}"]
    words += [*PUBLISHED.split(), "--encoder-depth=2", "--projector-dim=32", "--batch-size=8"]
    words += ["--learning-rate=3e-3", "--ema-decay=0.5", "--logging-steps=1", "--report-to=none"]
    words += ["--checkpointing-steps=2", "--sampling-steps=4", "--device=cpu", *arguments]
    assert main(words) == 0
    return out / name


@pytest.fixture(scope="module")
def runs(emoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A plain run of four steps, and an aligned one that was stopped in between."""
    out = tmp_path_factory.mktemp("runs")
    plain = train(emoji_dir, out, "plain", "--enc-type=none", "--max-train-steps=4")
    # All samples are evaluated while it trains, with each kind of numbers.
    more = ["--eval-every=2", "--eval-samples=9", "--eval-network=efficientnet-lite0"]
    more += ["--eval-num-steps=3", "--eval-mode=ddpm", "--probe-every=2", "--align-every=2"]
    for steps in (2, 4):
        arguments = [f"--enc-type={TARGET}", f"--max-train-steps={steps}", *more]
        aligned = train(emoji_dir, out, "aligned", *arguments)
    return plain, aligned


def test_both_train_and_the_bound_is_logged(runs) -> None:
    for run in runs:
        lines = read_json_lines(run / "metrics.jsonl")
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        for line in lines:
            parts = line["mse_loss"] + line["vb_loss"]
            assert line["denoising_loss"] == pytest.approx(parts, abs=1e-5)
            weighted = 0.5 * line.get("alignment_loss", 0)
            assert line["loss"] == pytest.approx(line["denoising_loss"] + weighted, abs=1e-5)
        assert lines[0]["mse_loss"] == pytest.approx(1, abs=0.1)  # a new model predicts zero
        assert lines[-1]["mse_loss"] < lines[0]["mse_loss"] - 0.02
        assert (run / "previews" / "0000004.png").stat().st_size > 1000
        assert "prediction: eps" in (run / "config.yaml").read_text()
    assert lines[-1]["alignment_loss"] < lines[0]["alignment_loss"]


def test_a_stopped_run_goes_on_as_if_it_had_not(runs, emoji_dir: Path, tmp_path: Path) -> None:
    _, resumed = runs
    arguments = [f"--enc-type={TARGET}", "--max-train-steps=4"]
    whole = train(emoji_dir, tmp_path, "aligned", *arguments)
    for part in ("model", "ema", "heads", "optimizer"):
        file = Path("checkpoints") / "0000004" / f"{part}.safetensors"
        ours, theirs = load_file(whole / file), load_file(resumed / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_it_is_evaluated_and_analyzed_while_it_trains(runs) -> None:
    _, run = runs
    evaluations = read_json_lines(run / "evaluations.jsonl")
    assert [line["step"] for line in evaluations] == [2, 4]
    assert all(np.isfinite(line["frechet_distance"]) for line in evaluations)
    for name in ("probes", "alignments"):
        rows = read_json_lines(run / f"{name}.jsonl")
        assert {row["depth"] for row in rows} == set(range(1, 7))
        assert {row["path_type"] for row in rows} == {None}


def sample(ckpt: Path, out: Path, *arguments: str) -> np.ndarray:
    words = ["sample", f"--ckpt={ckpt}", f"--sample-dir={out}", "--num-fid-samples=5"]
    assert main([*words, "--num-steps=4", "--device=cpu", *arguments]) == 0
    with np.load(out.with_suffix(".npz")) as archive:
        return archive["arr_0"]


def test_its_samplers_and_its_guidance(runs, tmp_path: Path) -> None:
    _, run = runs
    ways = {
        "ddim": [],
        "ddpm": ["--mode=ddpm"],
        "guided": ["--cfg-scale=4"],
        "interval": ["--cfg-scale=4", "--guidance-high=0.5"],
        "stochastic": ["--cfg-scale=4", "--mode=ddpm"],
    }
    drawn = {way: sample(run, tmp_path / way, *options) for way, options in ways.items()}
    assert all(images.shape == (5, 32, 32, 3) for images in drawn.values())
    assert len({images.tobytes() for images in drawn.values()}) == len(ways)
    named = sample(run, tmp_path / "named", "--mode=ddim", "--per-proc-batch-size=2")
    assert np.abs(named.astype(int) - drawn["ddim"]).max() <= 1
    request = json.loads((tmp_path / "ddim.json").read_text())["request"]
    assert (request["mode"], request["guide_all_channels"]) == ("ddim", False)
    assert "path_type" not in request


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--mode=sde", "--mode sde: the model has ddim and ddpm"),
        ("--num-steps=1001", "--num-steps 1001: the model's process has 1000"),
        ("--path-type=cosine", "--path-type cosine: DiT-Ti/8 has no such choice"),
        ("--prediction=x", "--prediction x: DiT-Ti/8 has no such choice"),
        ("--seeding=official", "--seeding official: the release draws no DiT-Ti/8"),
    ],
)
def test_what_it_has_not_is_refused(runs, tmp_path, capsys, option: str, message: str) -> None:
    words = ["sample", f"--ckpt={runs[0]}", f"--sample-dir={tmp_path / 'a'}", option]
    assert main([*words, "--device=cpu"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_published_path_type_is_accepted(runs, tmp_path: Path, capsys) -> None:
    sample(runs[0], tmp_path / "a", "--path-type=linear", "--heun")
    assert "note: --heun has no effect with --mode ddim" in capsys.readouterr().err


def test_guiding_all_of_three_channels_is_nothing_else(runs, tmp_path: Path, capsys) -> None:
    sample(runs[0], tmp_path / "a", "--cfg-scale=2")
    sample(runs[0], tmp_path / "a", "--cfg-scale=2", "--guide-all-channels")  # the same request
    assert "note: --guide-all-channels has no effect here" in capsys.readouterr().err


def test_normalized_queries_are_nothing_for_dits_scripts(emoji_dir, tmp_path, capsys) -> None:
    run = train(emoji_dir, tmp_path, "qk", "--enc-type=none", "--max-train-steps=1", "--qk-norm")
    assert main(["convert", f"--ckpt={run}", f"--dest={tmp_path / 'a.pt'}", "--to=released"]) == 2
    assert "DiT's scripts have no --qk-norm" in capsys.readouterr().err


def test_probe_align_evaluate_and_report(runs, emoji_dir: Path, tmp_path: Path) -> None:
    common = ["--ckpt", *map(str, runs), f"--data-dir={emoji_dir}", "--times=0.5", "--device=cpu"]
    analysis = tmp_path / "analysis"
    for command in ("probe", "align"):
        assert main([command, *common, f"--output-dir={analysis}"]) == 0
        rows = json.loads((analysis / f"{command}.json").read_text())["rows"]
        models = [row for row in rows if row["subject"] == "model"]
        assert {(row["name"], row["depth"]) for row in models} >= {("plain", 1), ("aligned", 6)}
    sample(runs[1], tmp_path / "samples")
    evaluate = ["evaluate", f"--samples={tmp_path / 'samples.npz'}", f"--reference={emoji_dir}"]
    output = runs[1] / "evaluation.json"
    evaluate += ["--network=efficientnet-lite0", "--device=cpu", f"--output={output}"]
    assert main(evaluate) == 0
    page = tmp_path / "report" / "report.html"
    report = ["report", *map(str, runs), f"--analysis={analysis}", f"--output-dir={page.parent}"]
    assert main(report) == 0

    for text in ("DiT-Ti/8", "DDIM in 4 steps", "Denoising loss over training"):
        assert text in page.read_text()


@pytest.mark.parametrize("all_channels", [False, True])
def test_a_published_checkpoint_is_sampled(vae, tmp_path: Path, all_channels: bool) -> None:
    """A file of DiT's own code, by DDPM with guidance on three of four channels, or on all."""
    model = random_model("DiT-Ti/4")
    torch.save(model.state_dict(), tmp_path / "DiT-XL-2-256x256.pt")
    options = ["--mode=ddpm", "--cfg-scale=1.5", f"--vae={vae}", "--classes=2"]
    options += ["--guide-all-channels"] if all_channels else []
    images = sample(tmp_path / "DiT-XL-2-256x256.pt", tmp_path / "a", *options)

    noise = ImageNoise(0, range(5), (4, 8, 8))
    y = torch.full((5,), 2)
    channels = 4 if all_channels else 3
    predict = GuidedModel(model, y, torch.full_like(y, 3), 1.5, guided_channels=channels)
    with torch.no_grad():
        latents = sample_ddpm(predict, noise.initial(), DDPM().schedule.respaced(4), noise.step)
    expected = create_autoencoder(str(vae), "cpu").decode(latents.float()).permute(0, 2, 3, 1)
    assert np.abs(images.astype(int) - expected.numpy()).max() <= 1


def test_converted_it_is_a_file_for_dits_own_scripts(runs, tmp_path: Path, capsys) -> None:
    """Which load the average's state dict, to the last name, and know of no heads."""
    for run, name in zip(runs, ("plain", "aligned"), strict=True):
        file = tmp_path / f"{name}.pt"
        assert main(["convert", f"--ckpt={run}", f"--dest={file}", "--to=released"]) == 0
        content = torch.load(file, weights_only=True)
        model, _ = load_model(run)
        assert_same(dict(content["ema"]), dict(model.state_dict()))
        assert ("opt" in content) == (name == "plain")
        assert_same(dict(load_model(file)[0].state_dict()), dict(model.state_dict()))
    assert "aligned.pt: DiT-Ti/8, step 4: weights, averaged weights\n" in capsys.readouterr().out


def test_published_it_is_loaded_with_its_card(runs, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert main(["convert", f"--ckpt={runs[1]}", f"--dest={folder}", "--to=pretrained"]) == 0
    model = DiT.from_pretrained(folder)
    card = (folder / "README.md").read_text()
    assert "torch.tensor([999])" in card
    assert "| prediction | eps |" in card
    assert "path type" not in card
    assert_same(dict(model.state_dict()), dict(load_model(runs[1])[0].state_dict()))
    same = [sample(ckpt, tmp_path / name) for ckpt, name in ((runs[1], "a"), (folder, "b"))]
    np.testing.assert_array_equal(*same)
