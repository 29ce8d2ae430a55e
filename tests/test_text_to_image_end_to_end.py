"""MMDiT from captions to samples: a small CLIP, real emoji and their names."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from repa.checkpoints import load_model
from repa.cli import main
from repa.data import PreparedDataset
from repa.files import read_json_lines
from text.models import save_clip

TARGET = "efficientnet-lite0"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def data(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Emoji, their names, and the names' tokens."""
    folder = tmp_path_factory.mktemp("data") / "emoji"
    prepare = ["prepare", "--source=twemoji", f"--dest={folder}", "--resolution=32"]
    prepare += ["--autoencoder=pixel", "--max-images=64", "--num-workers=0", "--device=cpu"]
    assert main(prepare) == 0
    add = ["prepare", f"--dest={folder}", "--text-enc-type=clip-vit-l", "--device=cpu"]
    assert main([*add, f"--text-encoder-weights={clip}", "--num-workers=0"]) == 0
    return folder


def train(data: Path, out: Path, name: str, *arguments: str) -> Path:
    words = ["train", f"--data-dir={data}", f"--output-dir={out}", f"--exp-name={name}"]
    words += ["--model=MMDiT-Ti/8", f"--enc-type={TARGET}", "--encoder-depth=2", "--device=cpu"]
    words += ["--projector-dim=32", "--batch-size=8", "--learning-rate=3e-3", "--ema-decay=0.5"]
    words += ["--logging-steps=1", "--report-to=none", "--checkpointing-steps=2"]
    assert main([*words, "--sampling-steps=4", *arguments]) == 0
    return out / name


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, stopped in between, evaluated and looked into on the way."""
    out = tmp_path_factory.mktemp("runs")
    more = ["--eval-every=2", "--eval-samples=9", f"--eval-network={TARGET}"]
    more += ["--eval-num-steps=3", "--probe-every=2", "--align-every=2"]
    for steps in (2, 4):
        folder = train(data, out, "run", f"--max-train-steps={steps}", *more)
    return folder


def test_it_trains_and_goes_on_as_if_it_had_not_stopped(run, data, tmp_path: Path) -> None:
    lines = read_json_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["alignment_loss"] < lines[0]["alignment_loss"]
    assert (run / "previews" / "0000004.png").stat().st_size > 1000
    assert [line["step"] for line in read_json_lines(run / "evaluations.jsonl")] == [2, 4]
    whole = train(data, tmp_path, "run", "--max-train-steps=4")
    for part in ("model", "ema", "heads", "optimizer"):
        file = Path("checkpoints") / "0000004" / f"{part}.safetensors"
        ours, theirs = load_file(whole / file), load_file(run / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_its_checkpoint_knows_the_empty_text_and_the_text_encoder(run, data) -> None:
    model, state = load_model(run)
    empty = PreparedDataset(data).empty_text("clip-vit-l")
    np.testing.assert_array_equal(model.null_context.numpy(), empty.astype(np.float32))
    assert state.options["text_enc_type"] == "clip-vit-l"
    record = PreparedDataset(data).manifest.text["clip-vit-l"]
    assert state.text == record
    assert state.model_arguments["context_dim"] == record.dim


def test_captions_may_be_encoded_while_it_trains(run, clip, data, tmp_path: Path) -> None:
    """The same run, but for the rounding of the stored tokens."""
    bare = tmp_path / "bare"
    prepare = ["prepare", "--source=twemoji", f"--dest={bare}", "--resolution=32"]
    prepare += ["--autoencoder=pixel", "--max-images=64", "--num-workers=0", "--device=cpu"]
    assert main(prepare) == 0
    weights = f"--text-encoder-weights={clip}"
    other = train(bare, tmp_path, "other", "--max-train-steps=4", weights, "--num-workers=2")
    for ours, theirs in zip(
        *(read_json_lines(r / "metrics.jsonl") for r in (run, other)), strict=True
    ):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-3)
    assert (other / "previews" / "0000004.png").exists()


def test_it_does_not_go_on_with_texts_of_another_encoder(run, data, tmp_path, capsys) -> None:
    shutil.copytree(run, tmp_path / "run")
    other = tmp_path / "other"
    shutil.copytree(data, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["text"]["clip-vit-l"]["weights"] = "0123456789abcdef"
    (other / "manifest.json").write_text(json.dumps(manifest))
    words = ["train", f"--data-dir={other}", f"--output-dir={tmp_path}", "--exp-name=run"]
    words += ["--model=MMDiT-Ti/8", f"--enc-type={TARGET}", "--encoder-depth=2", "--device=cpu"]
    words += ["--projector-dim=32", "--batch-size=8", "--max-train-steps=6", "--report-to=none"]
    assert main(words) == 2
    assert "(different: the text encoder's weights)" in capsys.readouterr().err


def sample(ckpt: Path, out: Path, *arguments: str) -> tuple[np.ndarray, list[dict]]:
    words = ["sample", f"--ckpt={ckpt}", f"--sample-dir={out}", "--num-steps=4", "--device=cpu"]
    assert main([*words, *arguments]) == 0
    with np.load(out.with_suffix(".npz")) as archive:
        return archive["arr_0"], read_json_lines(out.with_name(out.name + ".prompts.jsonl"))


def test_prompts_are_drawn_and_told(run, clip, tmp_path: Path) -> None:
    weights = f"--text-encoder-weights={clip}"
    given = ["--prompt", "red heart", "cat face", weights, "--cfg-scale=4"]
    images, lines = sample(run, tmp_path / "a", *given)
    assert images.shape == (2, 32, 32, 3)
    assert lines == [
        {"index": 0, "file": "000000.png", "prompt": "red heart"},
        {"index": 1, "file": "000001.png", "prompt": "cat face"},
    ]
    (tmp_path / "prompts.txt").write_text("red heart\n\n  cat face \n", encoding="utf-8")
    file = ["--prompts-file", str(tmp_path / "prompts.txt"), weights, "--cfg-scale=4"]
    again, _ = sample(run, tmp_path / "b", *file, "--num-fid-samples=3")
    np.testing.assert_array_equal(again[:2], images)
    assert json.loads((tmp_path / "b.json").read_text())["labels"] == [0, 1, 0]
    other, _ = sample(run, tmp_path / "c", "--prompt", "police car", *given[2:])
    assert not np.array_equal(other[:1], images[:1])
    plain, _ = sample(run, tmp_path / "d", "--prompt", "red heart", weights, "--mode=sde")
    assert not np.array_equal(plain, images[:1])


def test_captions_of_a_dataset_are_drawn_without_the_text_encoder(run, data, tmp_path) -> None:
    images, lines = sample(run, tmp_path / "a", f"--captions={data}")
    dataset = PreparedDataset(data)
    assert len(images) == len(dataset) == 64
    assert [line["prompt"] for line in lines] == [dataset.captions(i)[0] for i in range(64)]


def test_what_does_not_fit_is_refused(run, clip, data, tmp_path: Path, capsys) -> None:
    words = ["sample", f"--ckpt={run}", f"--sample-dir={tmp_path / 'a'}", "--device=cpu"]
    other = save_clip(tmp_path / "other", seed=1)
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    cases = {
        "give one of --prompt, --prompts-file and --captions": [],
        "give one of --prompt": ["--prompt", "a", f"--captions={data}"],
        "has other weights than the one": ["--prompt", "a", f"--text-encoder-weights={other}"],
        "--classes: MMDiT-Ti/8 draws texts": ["--classes=1", "--prompt", "a"],
        "it has neither captions nor tokens of clip-vit-l": [f"--captions={emoji_files(tmp_path)}"],
        "no line with a text in it": [f"--prompts-file={tmp_path / 'empty.txt'}"],
        "latin.txt: 'utf-8' codec": [f"--prompts-file={tmp_path / 'latin.txt'}"],
        "--seeding official: the release draws no MMDiT-Ti/8": [
            "--seeding=official", "--prompt", "a", f"--text-encoder-weights={clip}",
        ],
    }  # fmt: skip
    for message, arguments in cases.items():
        assert main([*words, *arguments]) == 2
        assert message in capsys.readouterr().err
    published = Path(__file__).parents[1] / "generate.py"
    done = subprocess.run(
        [sys.executable, str(published), f"--ckpt={run}", "--device=cpu"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is a MMDiT-Ti/8, which draws texts: `repa sample --prompt`" in done.stderr
    assert not (tmp_path / "a.partial").exists()


def emoji_files(folder: Path) -> Path:
    """A dataset of images without captions."""
    images = folder / "images" / "red"
    images.mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(images / f"{i}.png")
    prepare = ["prepare", f"--source={images.parent}", f"--dest={folder / 'data'}"]
    prepare += ["--resolution=32", "--autoencoder=pixel", "--num-workers=0", "--device=cpu"]
    assert main(prepare) == 0
    return folder / "data"


def test_a_dataset_without_captions_is_refused(tmp_path: Path, capsys) -> None:
    data = emoji_files(tmp_path)
    words = ["train", f"--output-dir={tmp_path}", "--exp-name=a", "--model=MMDiT-Ti/8"]
    words += ["--enc-type=none", "--max-train-steps=1", "--device=cpu", "--report-to=none"]
    assert main([*words, f"--data-dir={data}"]) == 2
    assert f"--text-enc-type clip-vit-l: {data} has no captions" in capsys.readouterr().err


def test_hidden_states_are_looked_into(run, data, tmp_path: Path) -> None:
    rows = read_json_lines(run / "probes.jsonl")
    assert {row["depth"] for row in rows} == set(range(1, 7))
    common = [f"--ckpt={run}", f"--data-dir={data}", "--times=0.5", "--device=cpu"]
    for command in ("probe", "align"):
        assert main([command, *common, f"--output-dir={tmp_path}"]) == 0
