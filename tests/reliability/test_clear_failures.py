"""What a user meets most often: one line that says what to do, at once, and exit code 2."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evaluation.disk import full_disk
from reliability.jobs import full_only
from repa.autoencoders import HUB_NAMES, create_autoencoder
from repa.checkpoints import download
from repa.cli import main
from repa.data.sources import open_source
from repa.encoders import ENCODERS, create_encoder
from repa.encoders.vit import VITS
from repa.errors import RepaError
from repa.evaluation.clip_score import load_scorer
from repa.evaluation.networks import NETWORKS, create_network
from repa.text import TEXT_ENCODERS, create_text_encoder

pytestmark = pytest.mark.promise("7 clear failures")

CLOSED = "http://127.0.0.1:9"  # a proxy where nobody listens
PACKAGED = {*(f"efficientnet-lite{i}" for i in range(3)), "minilm", "pixels"}
TEXT_FILES = "put its config.json, model.safetensors and tokenizer files into a folder and name"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network for urllib, an empty cache of torch.hub, and ./ckpts is not there.

    The hub's client is offline in all tests (HF_HUB_OFFLINE).
    """
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, CLOSED)
        monkeypatch.setenv(name.upper(), CLOSED)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _failure(call: Callable[[], object]) -> str:
    with pytest.raises(RepaError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Without a network


@pytest.mark.parametrize("name", sorted(ENCODERS.keys() - PACKAGED))
def test_an_encoder_names_its_file_and_the_folder(name: str) -> None:
    message = _failure(lambda: create_encoder(name))
    assert message.startswith(f"no weights for {name}")
    assert f"put {VITS[name].files[0]} into ckpts/ or name it with --encoder-weights" in message
    assert ("download of " in message) == VITS[name].hosted


@pytest.mark.parametrize("name", sorted(HUB_NAMES))
def test_an_autoencoder_names_its_files_and_the_option(name: str) -> None:
    message = _failure(lambda: create_autoencoder(name))
    assert f"download of stabilityai/{name} failed" in message
    assert "put its config.json and diffusion_pytorch_model.safetensors into a folder" in message
    assert message.endswith("name that as --autoencoder (--vae to sample)")


@pytest.mark.parametrize(
    "name", sorted({*TEXT_ENCODERS, "clip:a/b", "t5:a/b", "sentence:a/b"} - PACKAGED)
)
def test_a_text_encoder_names_its_files_and_the_option(name: str) -> None:
    message = _failure(lambda: create_text_encoder(name))
    place = TEXT_ENCODERS[name][1] if name in TEXT_ENCODERS else "a/b"
    assert message.startswith(f"no weights for {name}: download of {place} failed")
    assert message.endswith(f"{TEXT_FILES} that with --text-encoder-weights")


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - PACKAGED - {"classifier"}))
def test_a_judge_names_its_file_and_the_folder(name: str, offline: Path) -> None:
    message = _failure(lambda: create_network(name))
    assert message.startswith(f"no weights for {name}: download ")
    file = {
        "inception": "weights-inception-2015-12-05-6726825d.pth",
        "dinov2": "dinov2_vitl14_pretrain.pth",
        "clip": "clip_vitl_336.pth",
    }[name]
    assert f"put {file} into {offline / 'hub/checkpoints'}, or name the file with " in message
    assert "--network-weights (--eval-network-weights in training)" in message


def test_the_clip_of_scores_names_its_files_and_the_option() -> None:
    message = _failure(lambda: load_scorer("openai/clip-vit-large-patch14", None))
    assert f"{TEXT_FILES} that with --clip-weights" in message


def test_the_released_checkpoint_names_its_address_and_its_place() -> None:
    message = _failure(download.released_checkpoint)
    assert message.startswith("cannot download last.pt (")
    assert f"download it from {download.PUBLISHED_URL} elsewhere and put it at " in message
    assert message.endswith("pretrained_models/last.pt")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_of_the_hub_says_what_to_give_instead(streaming: bool) -> None:
    pytest.importorskip("datasets")
    message = _failure(lambda: open_source("hf:nobody/nothing", streaming=streaming))
    assert message.startswith("cannot read hf:nobody/nothing: ")
    assert message.endswith(
        "download its parquet files elsewhere and give their folder as --source"
    )


UNREACHABLE = """
import sys
from repa.autoencoders import create_autoencoder
from repa.encoders import create_encoder
from repa.errors import RepaError
from repa.text import create_text_encoder
for call in (
    lambda: create_autoencoder("sd-vae-ft-mse"),
    lambda: create_encoder("dinov2-vit-g"),
    lambda: create_text_encoder("t5-large"),
):
    try:
        call()
    except RepaError as error:
        print(error)
"""


@full_only
def test_an_unreachable_network_is_not_waited_for(offline: Path) -> None:
    """As a user meets it who has not said that there is none."""
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_HOME": str(offline / "hf"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", UNREACHABLE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for line, place in zip(
        lines,
        (
            "stabilityai/sd-vae-ft-mse",
            "timm/vit_giant_patch14_dinov2.lvd142m",
            "google-t5/t5-large",
        ),
        strict=True,
    ):
        assert f"download of {place} failed (" in line
        assert "Connection refused" in line


# Out of memory

LIMITED = """
import resource, sys
import torch
torch.set_num_threads(1)
from repa.cli import main
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2 * 2**30  # libraries that come later take some
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main())
"""


def _limited(*arguments: str) -> str:
    """The last line of a command that has 2 GiB for itself."""
    command = [sys.executable, "-c", LIMITED, *arguments, "--device=cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_batch_that_is_too_large_is_named(emoji_dir: Path, tmp_path: Path) -> None:
    train = [
        "train", f"--data-dir={emoji_dir}", f"--output-dir={tmp_path}", "--exp-name=run",
        "--model=SiT-Ti/4", "--enc-type=none", "--max-train-steps=1", "--mixed-precision=no",
        "--report-to=none", "--batch-size=8", "--device=cpu",
    ]  # fmt: skip
    assert main(train) == 0
    sample = ["sample", f"--ckpt={tmp_path / 'run'}", f"--sample-dir={tmp_path / 'a'}"]
    line = _limited(*sample, "--num-fid-samples=20000", "--per-proc-batch-size=20000")
    assert line.startswith("repa sample: error: out of memory with --per-proc-batch-size 20000")
    assert "try a lower --per-proc-batch-size or --mixed-precision bf16" in line


# Mistakes in a command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "repa: error: no command 'trian'; choose from demo, prepare, train,"),
        (["train", "--bach-size=8"], "repa train: error: unrecognized arguments: --bach-size=8"),
        (["train", "--batch-size=x"], "repa train: error: --batch-size 'x': input should be a"),
        (["train", "--config=no.yaml"], "repa train: error: --config no.yaml: "),
        (["sample"], "repa sample: error: --ckpt is required"),
        (
            ["train", "--model=SiT-S/2", "--exp-name=x", "--data-dir=nowhere", "--device=cpu"],
            "repa train: error: ",
        ),
        (["sample", "--ckpt=nowhere", "--device=cpu"], "repa sample: error: "),
        (
            ["prepare", "--source=nowhere", "--dest=data", "--device=cpu"],
            "repa prepare: error: no such source: nowhere",
        ),
        (
            ["evaluate", "--samples=nowhere", "--reference=nowhere", "--device=cpu"],
            "repa evaluate: error: ",
        ),
        (["report", "nowhere"], "repa report: error: "),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], offline: Path
) -> None:
    try:
        code = main(arguments)
    except SystemExit as ending:  # argparse's own
        code = ending.code  # type: ignore[assignment]
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    if "nowhere" in " ".join(arguments):
        assert "nowhere" in error
    assert not list(offline.iterdir())  # nothing was begun


def test_a_dataset_of_another_source_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", f"--dest={tmp_path / 'data'}", "--resolution=32", "--autoencoder=pixel"]
    command += ["--max-images=3", "--num-workers=0", "--device=cpu"]
    assert main([*command, "--source=twemoji-train"]) == 0
    assert main([*command, "--source=twemoji-val"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "holds a dataset of another source or settings (different: source)" in error
    assert error.endswith("choose another --dest")


def test_a_full_disk_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prepare", f"--dest={tmp_path / 'data'}", "--resolution=32", "--autoencoder=pixel"]
    command += ["--max-images=3", "--num-workers=0", "--device=cpu", "--source=twemoji"]
    with full_disk():
        assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"repa prepare: error: cannot write to --dest {tmp_path / 'data'}: ")
    assert "File too large" in error
