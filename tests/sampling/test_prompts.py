"""Samples of texts: which texts, by which text encoder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState
from safetensors.torch import load_file, save_file

from repa.checkpoints import load_model
from repa.cli import main
from repa.config import SampleOptions
from repa.data import open_dataset
from repa.errors import RepaError
from repa.files import read_json_lines
from repa.models import MMDiT, create_model
from repa.sampling.prompts import Prompts, choose_prompts
from sampling.texts import CAPTIONS, prepare_captioned, save_drawer, write_captioned
from text.models import save_clip

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]


def sample(ckpt: Path, out: Path, *arguments: str) -> np.ndarray:
    words = ["sample", f"--ckpt={ckpt}", f"--sample-dir={out}", "--num-steps=3", "--device=cpu"]
    assert main([*words, "--cfg-scale=2", *arguments]) == 0
    with np.load(out.with_name(out.name + ".npz")) as archive:
        return archive["arr_0"]


def refused(ckpt: Path, out: Path, *arguments: str) -> None:
    """The message is on stderr."""
    words = ["sample", f"--ckpt={ckpt}", f"--sample-dir={out}", "--num-steps=3", "--device=cpu"]
    assert main([*words, *arguments]) == 2


def prompts(out: Path) -> list[str]:
    return [line["prompt"] for line in read_json_lines(out.with_name(f"{out.name}.prompts.jsonl"))]


def choose(ckpt: Path, **options) -> Prompts:
    model, state = load_model(ckpt)
    assert isinstance(model, MMDiT)
    wanted = SampleOptions(ckpt=ckpt, **options)
    return choose_prompts(wanted, model, state, PartialState(cpu=True))


@pytest.fixture
def weights(clip: Path) -> str:
    return f"--text-encoder-weights={clip}"


def test_prompt_given_twice_counts_twice(drawer, weights, tmp_path: Path) -> None:
    both = sample(drawer, tmp_path / "a", "--prompt", "red heart", "--prompt", "cat face", weights)
    one_flag = sample(drawer, tmp_path / "b", "--prompt", "red heart", "cat face", weights)
    np.testing.assert_array_equal(both, one_flag)
    assert prompts(tmp_path / "a") == ["red heart", "cat face"]


def test_lines_end_where_files_end_them(drawer, weights, tmp_path: Path) -> None:
    """Not at the other characters that Python takes for an end of line."""
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffred\u2028heart\r\n \n\x0b\ncat\x85face\n  police car".encode())
    sample(drawer, tmp_path / "a", f"--prompts-file={file}", weights)
    assert prompts(tmp_path / "a") == ["red\u2028heart", "cat\x85face", "police car"]


def test_a_blank_prompt_is_the_empty_text(drawer, weights, tmp_path: Path) -> None:
    blank = sample(drawer, tmp_path / "a", "--prompt", "  ", weights)
    assert prompts(tmp_path / "a") == [""]
    np.testing.assert_array_equal(blank, sample(drawer, tmp_path / "b", "--prompt", "", weights))


def test_prompts_that_are_cut_are_counted(drawer, weights, tmp_path: Path, capsys) -> None:
    long = " ".join(["red"] * 1000)
    images = sample(drawer, tmp_path / "a", "--prompt", long, "cat", long + " heart", weights)
    note = "note: 2 of 3 prompts are longer than 77 tokens and are cut\n"
    assert capsys.readouterr().err.count(note) == 1
    assert prompts(tmp_path / "a") == [long, "cat", long + " heart"]
    assert images.shape == (3, 16, 16, 3)
    sample(drawer, tmp_path / "b", "--prompt", "cat", weights)
    assert "note:" not in capsys.readouterr().err


def test_two_processes_draw_what_one_does_and_refuse_in_one_line(
    drawer, weights, tmp_path: Path
) -> None:
    given = ["--prompt", "red heart", "cat face", "police car", "--per-proc-batch-size=1"]
    sample(drawer, tmp_path / "one", *given, weights)
    command = [*TORCHRUN, "-m", "repa.cli", "sample", f"--ckpt={drawer}", "--num-steps=3"]
    command += [f"--sample-dir={tmp_path / 'two'}", "--device=cpu", "--cfg-scale=2", *given]
    done = subprocess.run([*command, weights], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()
    assert prompts(tmp_path / "two") == given[1:4]
    lost = f"--text-encoder-weights={tmp_path / 'lost'}"
    done = subprocess.run([*command, lost], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert done.stderr.count("there is no folder") == 1
    assert "rank1" not in done.stderr


def test_stored_tokens_of_captions_that_were_cut(drawer, clip, tmp_path: Path, capsys) -> None:
    images = write_captioned(tmp_path / "images", ["red " * 80, "cat"])
    data = prepare_captioned(images, tmp_path / "data", clip)
    capsys.readouterr()
    sample(drawer, tmp_path / "a", f"--captions={data}")
    assert "note: 1 captions of " in capsys.readouterr().err


def test_fewer_and_more_images_than_prompts(drawer, weights, tmp_path: Path) -> None:
    given = ["--prompt", "red heart", "cat face", weights, "--png"]
    three = sample(drawer, tmp_path / "a", *given, "--num-fid-samples=3")
    one = sample(drawer, tmp_path / "b", *given, "--num-fid-samples=1")
    np.testing.assert_array_equal(three[:1], one)
    assert prompts(tmp_path / "a") == ["red heart", "cat face", "red heart"]
    lines = read_json_lines(tmp_path / "a.prompts.jsonl")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert [line["file"] for line in lines] == names == [f"00000{i}.png" for i in range(3)]
    assert prompts(tmp_path / "b") == ["red heart"]


def test_half_drawn_texts_are_gone_on_with_and_others_refused(
    drawer, clip, weights, tmp_path: Path, monkeypatch, capsys
) -> None:
    given = ["--prompt", "red heart", "cat face", "red car", weights, "--per-proc-batch-size=1"]
    whole = sample(drawer, tmp_path / "whole", *given)
    out = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr("repa.sampling.archive.SampleArchive.finish", lambda archive: None)
        with pytest.raises(FileNotFoundError):
            sample(drawer, out, *given)
    [part] = (tmp_path / "a.partial").glob("*/00000001-00000002-1.npz")
    part.unlink()
    refused(drawer, out, "--prompt", "red heart", "cat face", "cat car", weights, "--cfg-scale=2")
    assert "(different: prompts): choose another --sample-dir" in capsys.readouterr().err
    np.testing.assert_array_equal(sample(drawer, out, *given), whole)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    sample(drawer, out, "--prompt", "cat", weights, "--overwrite")
    assert prompts(out) == ["cat"]


def test_datasets_of_one_source_are_told_apart(drawer, captioned, clip, tmp_path: Path) -> None:
    images = captioned.parent / "images"
    few = prepare_captioned(images, tmp_path / "few", clip, "--max-images=3")
    sources = [open_dataset(folder).manifest.source.fingerprint for folder in (captioned, few)]
    assert sources[0] == sources[1]
    found = [choose(drawer, captions=folder) for folder in (captioned, few, captioned)]
    assert found[0].fingerprint == found[2].fingerprint != found[1].fingerprint
    assert found[0].texts == CAPTIONS


def uvit(folder: Path, seed: int) -> Path:
    """Two images' latents and captions, as U-ViT's scripts leave them."""
    random = np.random.default_rng(seed)
    for name, shape in (("0", (8, 2, 2)), ("0_0", (77, 768)), ("1", (8, 2, 2)), ("1_0", (77, 768))):
        (folder / "train").mkdir(parents=True, exist_ok=True)
        np.save(folder / "train" / f"{name}.npy", random.standard_normal(shape, np.float32))
    np.save(folder / "empty_context.npy", random.standard_normal((77, 768), np.float32))
    return folder


def wide(folder: Path) -> Path:
    """A file with the weights of a model that takes tokens of 768, and nothing else."""
    model = create_model("MMDiT-Ti/8", input_size=16, in_channels=3)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "wide.safetensors")
    return folder / "wide.safetensors"


def test_features_without_words_are_told_by_their_files(tmp_path: Path) -> None:
    model = wide(tmp_path / "model")
    one, other = (choose(model, captions=uvit(tmp_path / str(i), seed=i)) for i in range(2))
    assert one.texts is None
    assert one.fingerprint != other.fingerprint


def test_features_without_words_cannot_be_encoded(tmp_path: Path, clip: Path) -> None:
    model, features = wide(tmp_path / "model"), uvit(tmp_path / "features", seed=0)
    with pytest.raises(RepaError, match=r"has tokens of its captions and not their words: leave"):
        choose(model, captions=features, text_encoder_weights=clip)


def test_stored_tokens_of_other_weights_lead_to_what_works(
    captioned, tmp_path: Path, capsys
) -> None:
    other = save_clip(tmp_path / "other", seed=1)
    drawer = save_drawer(tmp_path / "0000001", other)
    refused(drawer, tmp_path / "a", f"--captions={captioned}")
    message = (
        "were made by other weights than those that MMDiT-Ti/8 was trained with: give those as"
    )
    assert message in capsys.readouterr().err
    sample(drawer, tmp_path / "a", f"--captions={captioned}", f"--text-encoder-weights={other}")
    assert prompts(tmp_path / "a") == CAPTIONS


def test_given_weights_are_used_where_tokens_are_stored(
    drawer, captioned, weights, tmp_path: Path, capsys
) -> None:
    given = f"--captions={captioned}"
    stored = sample(drawer, tmp_path / "a", given).astype(int)
    encoded = sample(drawer, tmp_path / "b", given, weights)
    assert np.abs(stored - encoded).max() <= 3  # stored tokens are rounded
    keys = [json.loads((tmp_path / f"{n}.json").read_text())["request"]["prompts"] for n in "ab"]
    assert keys[0] != keys[1]
    other = save_clip(tmp_path / "other", seed=1)
    refused(drawer, tmp_path / "c", given, f"--text-encoder-weights={other}")
    assert "has other weights than the one that MMDiT-Ti/8 was trained" in capsys.readouterr().err


def test_captions_without_stored_tokens_are_encoded(drawer, captioned, clip, tmp_path) -> None:
    bare = prepare_captioned(captioned.parent / "images", tmp_path / "bare", None)
    assert choose(drawer, captions=bare, text_encoder_weights=clip).texts == CAPTIONS


def test_a_file_that_does_not_know_its_text_encoder_is_told(
    drawer, clip, weights, tmp_path: Path, capsys
) -> None:
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(drawer / "ema.safetensors"), bare)
    given = ["--prompt", "red heart"]
    known = sample(drawer, tmp_path / "known", *given, weights)
    told = sample(bare, tmp_path / "told", *given, f"--text-enc-type=clip:{clip}")
    np.testing.assert_array_equal(told, known)
    refused(bare, tmp_path / "a", *given, "--text-enc-type=bert")
    assert "unknown text encoder 'bert'" in capsys.readouterr().err
    refused(drawer, tmp_path / "a", *given, weights, "--text-enc-type=t5-base")
    message = "--text-enc-type t5-base: MMDiT-Ti/8 was trained with clip-vit-l; leave it out"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.partial").exists()


def test_texts_are_no_classes(run: Path, tmp_path: Path, capsys) -> None:
    refused(run, tmp_path / "a", "--text-enc-type=minilm")
    assert "--text-enc-type: SiT-Ti/8 draws classes, no texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no line with a text in it"),
        (b"\xef\xbb\xbf \n\t\n", "no line with a text in it"),
        (b"caf\xe9\n", "'utf-8' codec"),
        (None, "No such file"),
    ],
)
def test_prompt_files_without_texts_are_refused(
    drawer, weights, tmp_path: Path, capsys, content: bytes | None, message: str
) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    refused(drawer, tmp_path / "a", f"--prompts-file={path}", weights)
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error
    assert not list(tmp_path.glob("a*"))


def test_half_a_character_is_refused_before_anything_is_written(
    drawer, weights, tmp_path: Path, capsys
) -> None:
    refused(drawer, tmp_path / "a", "--prompt", "caf\udce9", weights)
    assert "is no valid Unicode" in capsys.readouterr().err
    assert not list(tmp_path.glob("a*"))


def test_a_dataset_without_captions_is_refused(drawer, tmp_path: Path, capsys) -> None:
    images = write_captioned(tmp_path / "images")
    for path in images.glob("*.txt"):
        path.unlink()
    data = prepare_captioned(images, tmp_path / "data", None)
    refused(drawer, tmp_path / "a", f"--captions={data}")
    message = "it has neither captions nor tokens of clip-vit-l; give a dataset prepared of images"
    assert message in capsys.readouterr().err


def test_texts_that_are_none_of_three_kinds_or_several_are_refused(drawer, tmp_path: Path) -> None:
    message = r"draws texts: give one of --prompt, --prompts-file and --captions$"
    for given in ({}, {"prompt": ("a",), "prompts_file": tmp_path / "a.txt"}):
        with pytest.raises(RepaError, match=message):
            choose(drawer, **given)


def test_classes_are_no_texts(drawer) -> None:
    with pytest.raises(RepaError, match=r"^--classes: \S+ draws texts$"):
        choose(drawer, prompt=("a",), classes="1")
