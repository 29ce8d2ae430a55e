"""Prompts of samples: where they are found, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.captioned import write_lines
from evaluation.tiny import options
from repa.errors import RepaError
from repa.evaluation.evaluate import evaluate
from repa.evaluation.prompts import Prompt, find_prompts, read_prompts


def test_a_named_file_and_local_weights(
    emoji_dir: Path, samples: Path, clip: Path, tiny: None
) -> None:
    beside = samples.with_name("a.prompts.jsonl")
    named = beside.rename(samples.with_name("other.jsonl"))
    bare = evaluate(options(emoji_dir, samples))
    assert bare is not None
    assert "clip_score" not in bare
    found = evaluate(options(emoji_dir, samples, clip_weights=clip, prompts=named))
    assert found is not None
    assert found["clip_score"] > 0
    assert found["clip"]["name"] == "openai/clip-vit-large-patch14"


def test_prompts_lie_beside_an_npz_and_beside_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(tmp_path / "run.v2.prompts.jsonl", ["red heart"])
    (tmp_path / "run.v2").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "run.v2")
    expected = [Prompt(0, "000000.png", "red heart")]
    for beside in (tmp_path / "run.v2.npz", tmp_path / "run.v2", Path("../run.v2"), Path()):
        assert find_prompts(options(tmp_path, beside), 1) == expected
        assert find_prompts(options(tmp_path, beside, clip="none"), 1) is None
    for other in (tmp_path / "other.npz", tmp_path / "other", tmp_path / "run.v2.zip", Path("..")):
        assert find_prompts(options(tmp_path, other), 1) is None


@pytest.mark.parametrize(
    "given", [{"clip": "a/b"}, {"clip_weights": Path("a")}, {"prompt_scores": Path("a.csv")}]
)
def test_options_of_the_score_are_refused_where_there_are_no_prompts(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    (tmp_path / "a").mkdir()
    flag = "--" + next(iter(given)).replace("_", "-")
    for samples, looked in (
        (tmp_path / "a.npz", f"there is no {tmp_path / 'a.prompts.jsonl'}"),
        (tmp_path / "a", f"there is no {tmp_path / 'a.prompts.jsonl'}"),
        (tmp_path / "a.zip", "only an npz or a folder has a file beside"),
    ):
        message = (
            f"{flag} is for the CLIP score, and the samples' prompts are not known ({looked}); "
            "give them as --prompts"
        )
        with pytest.raises(RepaError, match=f"^{re.escape(message)}$"):
            find_prompts(options(tmp_path, samples, **given), 1)


@pytest.mark.parametrize("name", ["prompts", "clip_weights", "prompt_scores"])
def test_options_of_a_score_that_is_left_out_are_refused(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / "a.prompts.jsonl", ["red heart"])
    message = rf"^--{name.replace('_', '-')} is for the CLIP score, which --clip none leaves out$"
    with pytest.raises(RepaError, match=message):
        find_prompts(options(tmp_path, tmp_path / "a.npz", clip="none", **{name: "x"}), 1)


def test_a_folder_of_pictures_is_scored_as_its_npz(
    tmp_path: Path, emoji_dir: Path, samples: Path, clip: Path, tiny: None
) -> None:
    (tmp_path / "a").mkdir()
    for i, image in enumerate(np.load(samples)["arr_0"]):
        Image.fromarray(image).save(tmp_path / "a" / f"{i:06d}.png")
    scores = []
    for path in (samples, tmp_path / "a"):
        result = evaluate(options(emoji_dir, path, clip=str(clip)))
        assert result is not None
        scores.append((result["clip_score"], result["prompts"]))
    assert scores[0] == scores[1]


def line(index: Any = 0, file: Any = "0.png", prompt: Any = "a") -> bytes:
    return json.dumps({"index": index, "file": file, "prompt": prompt}).encode() + b"\n"


FORM = r'line 1 is not of the form {"index": 0, "file": "000000.png", "prompt": "a red heart"}$'
BROKEN: dict[str, tuple[bytes, str]] = {
    "too few": (line(0), "has prompts of 1 of 2 samples; give those of all 2 samples, or leave"),
    "none": (b"", "has prompts of 0 of 2 samples"),
    "cut short": (line(0) + line(1)[:20], "has prompts of 1 of 2 samples"),
    "too many": (line(0) + line(1) + line(2), "the index 2 of line 3 is none of 0 to 1; give"),
    "below": (line(-1) + line(1), "the index -1 of line 1 is none of 0 to 1"),
    "twice": (line(1) + line(1), "the index 1 of line 2 is there twice; give"),
    "not JSON": (line(0) + b"red heart\n" + line(1), "damaged: line 2 is not a JSON object"),
    "a list": (b'[0, "a"]\n', "damaged: line 1 is not a JSON object"),
    "not UTF-8": (line(0) + b'{"index": 1, "prompt": "caf\xe9"}\n', "line 2 is not a JSON object"),
    "deep": (b"[" * 100_000 + b"\n", "damaged: "),
    "no index": (line(None), FORM),
    "index a truth": (line(True), FORM),
    "index a fraction": (line(0.0), FORM),
    "no file": (b'{"index": 0, "prompt": "a"}\n', FORM),
    "prompt a number": (line(prompt=3), FORM),
    "half a character": (line(prompt="\ud83d"), FORM),
    "all empty": (line(0, prompt="") + line(1, prompt="\t"), "all prompts are empty; give"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_prompts_are_one_clear_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(data)
    with pytest.raises(RepaError, match=rf"p\.jsonl[^\n]*{message}") as error:
        read_prompts(tmp_path / "p.jsonl", 2)
    assert "\n" not in str(error.value)


def test_prompts_that_are_not_there(emoji_dir: Path, samples: Path, tiny: None) -> None:
    with pytest.raises(RepaError, match=r"cannot read .*nowhere\.jsonl: No such file"):
        evaluate(options(emoji_dir, samples, prompts=Path("nowhere.jsonl")))
