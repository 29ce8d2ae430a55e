"""The release's README from training to images: its command lines on a few real images."""

import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.preparing import write_released_layout
from encoders.published import save_published, timm_state
from repa.checkpoints import load_model, read_state
from repa.cli import COMMANDS, main
from repa.config import TrainOptions
from repa.data import PreparedDataset, open_dataset
from repa.data.images import decode_image
from repa.data.sources import open_source
from repa.files import read_json_lines
from repa.models import create_model
from text.models import CLIP_DIM, save_clip

REPOSITORY = Path(__file__).parents[1]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--standalone"]
TRAIN = """--report-to=wandb --allow-tf32 --mixed-precision=fp16 --seed=0 --path-type=linear
    --prediction=v --weighting=uniform --model=SiT-Ti/2 --enc-type=efficientnet-lite0
    --proj-coeff=0.5 --encoder-depth=2 --exp-name=run --resolution=64 --max-train-steps=2
    --batch-size=4 --checkpointing-steps=2 --sampling-steps=1 --num-workers=1"""
GENERATE = """--model SiT-Ti/2 --num-fid-samples 16 --path-type=linear --encoder-depth=8
    --projector-embed-dims=768 --per-proc-batch-size=4 --mode=sde --num-steps=4 --cfg-scale=1.8
    --guidance-high=0.7"""
TEXT_TO_IMAGE = """--report-to=wandb --allow-tf32 --mixed-precision=fp16 --seed=0
    --path-type=linear --prediction=v --weighting=uniform --enc-type=dinov2-vit-b --proj-coeff=0.5
    --encoder-depth=8 --output-dir=exps --exp-name=t2i_repa"""
# What later options change: the published model has 24 blocks and would take 10 GB.
TWO_STEPS = """--model=MMDiT-Ti/2 --encoder-depth=4 --max-train-steps=2 --batch-size=4
    --checkpointing-steps=2 --sampling-steps=2 --logging-steps=1 --num-workers=1"""
CAPTIONS = ["a yellow face", "a red heart, which has no end " * 20, "a cat", "police car"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "imagenet"
    return write_released_layout(folder, pictures(5, (64, 64), "PNG"), 8)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """U-ViT's features of four images at 256 px, one to four captions each."""
    folder = tmp_path_factory.mktemp("features")
    random = np.random.default_rng(0)
    np.save(folder / "empty_context.npy", random.standard_normal((77, 768), np.float32))
    (folder / "train").mkdir()
    for index, picture in enumerate(pictures(4, (256, 256), "PNG")):
        (folder / "train" / f"{index}.png").write_bytes(picture)
        moments = random.standard_normal((8, 32, 32), np.float32)
        moments[4:] -= 10  # log-variances
        np.save(folder / "train" / f"{index}.npy", moments)
        for caption in range(index + 1):
            tokens = random.standard_normal((77, 768), np.float32)
            np.save(folder / "train" / f"{index}_{caption}.npy", tokens)
    return folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MS-COCO's own files: four images to train with and four to validate, two captions each."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "annotations").mkdir()
    found = pictures(8, (280, 260), "JPEG")
    for part, own in (("train2014", found[:4]), ("val2014", found[4:])):
        (folder / part).mkdir()
        names = [f"COCO_{part}_{index:012d}.jpg" for index in range(4)]
        for name, picture in zip(names, own, strict=True):
            (folder / part / name).write_bytes(picture)
        captions = [(i, caption) for i, caption in enumerate(CAPTIONS)]
        captions += [(i, f"another {caption}") for i, caption in captions]
        content = {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
            "annotations": [{"image_id": i, "caption": caption} for i, caption in captions],
        }
        (folder / "annotations" / f"captions_{part}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def ckpts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DINOv2-B in its own size and file, every weight random."""
    folder = tmp_path_factory.mktemp("ckpts")
    save_published("dinov2-vit-b", timm_state("dinov2-vit-b"), folder)
    return folder


def pictures(count: int, size: tuple[int, int], form: str) -> list[bytes]:
    """Image files of Twemoji."""
    source = open_source("twemoji")
    found = []
    for index in range(count):
        buffer = io.BytesIO()
        decode_image(source.read(index)).resize(size).save(buffer, form)
        found.append(buffer.getvalue())
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_train_and_generate(layout: Path, vae: Path, tmp_path: Path) -> None:
    paths = [f"--data-dir={layout}", f"--output-dir={tmp_path}"]
    trained = run(*ACCELERATE, "train.py", *TRAIN.split(), *paths)
    # SD-VAE cannot be had here: said once, and training goes on.
    assert trained.stderr.count("warning: no previews: ") == 1
    assert not (tmp_path / "run" / "previews").exists()

    checkpoint = tmp_path / "run" / "checkpoints" / "0000002.pt"  # as the release would name it
    paths = [f"--ckpt={checkpoint}", f"--sample-dir={tmp_path / 'samples'}", f"--vae={vae}"]
    run(*TORCHRUN, "--nproc_per_node=2", "generate.py", *GENERATE.split(), *paths)
    name = f"SiT-Ti-2-0000002-size-64-vae-{vae.name}-cfg-1.8-seed-0-sde"
    with np.load(tmp_path / "samples" / f"{name}.npz") as archive:
        images = archive["arr_0"]
    assert (images.shape, images.dtype) == ((16, 64, 64, 3), np.uint8)
    assert len(list((tmp_path / "samples" / name).glob("*.png"))) == 16
    with Image.open(tmp_path / "samples" / name / "000015.png") as last:
        np.testing.assert_array_equal(np.asarray(last), images[15])


def test_without_a_network_the_released_checkpoint_is_named(tmp_path: Path) -> None:
    script = str(REPOSITORY / "generate.py")
    done = subprocess.run(
        [sys.executable, script, "--device=cpu"], cwd=tmp_path, capture_output=True, text=True,
        timeout=120, env={"https_proxy": "127.0.0.1:9", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("generate.py: error: cannot download last.pt (")
    assert error.endswith("put it at pretrained_models/last.pt")


def test_the_text_to_image_line_means_the_papers_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for the data: weights are not made."""
    options = text_to_image_options(monkeypatch, *TEXT_TO_IMAGE.split(), "--data-dir=coco")
    assert (options.model, options.text_encoder) == ("MMDiT-S/2", "clip-vit-l")
    assert (options.batch_size, options.cfg_prob, options.encoder_depth) == (256, 0.1, 8)
    with torch.device("meta"):
        model = create_model(options.model, input_size=32)
    assert (model.depth, model.hidden_size, model.grid_size) == (24, 768, 16)
    assert model.null_context.shape == (77, 768)
    assert options.encoder_depth <= model.depth


@pytest.mark.parametrize(
    ("line", "model"),
    [
        (["--config={recipe}"], "MMDiT-Ti/2"),
        (["--config={recipe}", "--model=MMDiT-Ti/4"], "MMDiT-Ti/4"),
        (["--data-dir=coco", "--exp-name=a"], "MMDiT-S/2"),
    ],
)
def test_the_papers_model_is_only_a_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: list[str], model: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: MMDiT-Ti/2\ndata_dir: coco\nexp_name: small\n")
    arguments = [part.format(recipe=recipe) for part in line]
    assert text_to_image_options(monkeypatch, *arguments).model == model


def text_to_image_options(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> TrainOptions:
    """What `train_t2i.py` would train with."""
    taken: list[TrainOptions] = []
    monkeypatch.setitem(COMMANDS, "train", (TrainOptions, taken.append))
    monkeypatch.setattr(sys, "argv", ["train_t2i.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(REPOSITORY / "train_t2i.py"), run_name="__main__")
    assert ended.value.code == 0
    return taken[0]


def test_text_to_image_on_uvits_features(features: Path, ckpts: Path, tmp_path: Path) -> None:
    line = [*TEXT_TO_IMAGE.split(), f"--data-dir={features}", *TWO_STEPS.split()]
    line += [f"--output-dir={tmp_path}", f"--encoder-weights={ckpts}"]
    trained = run(*ACCELERATE, "train_t2i.py", *line)
    assert trained.stderr.count("warning: no previews: ") == 1  # SD-VAE cannot be had here
    lines = read_json_lines(tmp_path / "t2i_repa" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    losses = [[line["denoising_loss"], line["alignment_loss"]] for line in lines]
    assert np.isfinite(losses).all()
    model, _ = load_model(tmp_path / "t2i_repa")
    empty = open_dataset(features).empty_text("clip-vit-l")
    np.testing.assert_array_equal(model.null_context.numpy(), empty)


def test_text_to_image_on_ms_cocos_own_files(
    coco: Path, ckpts: Path, clip: Path, vae: Path, tmp_path: Path, capsys
) -> None:
    """Prepared, trained on, and the validation captions drawn."""
    prepare = ["prepare", f"--source={coco}", f"--autoencoder={vae}", "--text-enc-type=clip-vit-l"]
    prepare += [f"--text-encoder-weights={clip}", "--num-workers=0", "--device=cpu"]
    for split in ("train", "val"):
        assert main([*prepare, f"--split={split}", f"--dest={tmp_path / split}"]) == 0
        assert "2 captions cut to 77 tokens" in capsys.readouterr().out
    record = PreparedDataset(tmp_path / "train").manifest.text["clip-vit-l"]
    assert (record.length, record.dim, record.truncated) == (77, CLIP_DIM, 2)

    line = [*TEXT_TO_IMAGE.split(), f"--data-dir={tmp_path / 'train'}", *TWO_STEPS.split()]
    line += [f"--output-dir={tmp_path}", f"--encoder-weights={ckpts}"]
    run(*ACCELERATE, "train_t2i.py", *line)
    ckpt = tmp_path / "t2i_repa"
    assert read_state(ckpt / "checkpoints" / "0000002").text == record
    with Image.open(ckpt / "previews" / "0000002.png") as grid:
        assert min(grid.size) >= 256

    draw = ["sample", f"--ckpt={ckpt}", f"--captions={tmp_path / 'val'}", "--device=cpu"]
    draw += ["--mode=sde", "--num-steps=4", "--cfg-scale=2", f"--sample-dir={tmp_path / 'samples'}"]
    assert main(draw) == 0
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive["arr_0"].shape == (4, 256, 256, 3)
    lines = read_json_lines(tmp_path / "samples.prompts.jsonl")
    assert [line["prompt"] for line in lines] == [caption.strip() for caption in CAPTIONS]
