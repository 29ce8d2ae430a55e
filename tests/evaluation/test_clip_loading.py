"""CLIPs that cannot be had, or do not fit together: one clear line before the work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPModel

from evaluation.tiny import options
from repa.errors import RepaError
from repa.evaluation.clip_score import load_scorer
from repa.evaluation.evaluate import evaluate
from text.models import save_bert


def edit_preprocessor(**changes: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


PROCESSOR = r"^cannot load the preprocessing from .*preprocessor_config\.json beside its weights$"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no preprocessor": (lambda f: (f / "preprocessor_config.json").unlink(), PROCESSOR),
    "a list": (lambda f: (f / "preprocessor_config.json").write_text("[]"), PROCESSOR),
    "not JSON": (lambda f: (f / "preprocessor_config.json").write_text("{"), PROCESSOR),
    "nonsense": (edit_preprocessor(size="wide"), PROCESSOR),
    "other size": (
        edit_preprocessor(crop_size={"height": 14, "width": 42}),
        "makes images of 42x14, its network takes 28x28; they do not belong together",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no model\.safetensors"),
    "no vocabulary": (
        lambda f: [(f / file).unlink() for file in ("vocab.json", "merges.txt")],
        "has no tokenizer",
    ),
    "another network": (lambda f: (shutil.rmtree(f), save_bert(f)), "another network's folder"),
    "no folder": (shutil.rmtree, "there is no folder .*; or leave the CLIP score out with --clip"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_is_one_clear_line(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copy)
    with pytest.raises(RepaError, match=message) as error:
        load_scorer("openai/clip-vit-large-patch14", copy)
    assert "\n" not in str(error.value)
    assert "--text-encoder" not in str(error.value)


def test_a_clip_that_cannot_be_downloaded_is_found_before_the_work(
    emoji_dir: Path, samples: Path, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **others: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr("repa.text.folder.snapshot_download", fail)
    monkeypatch.setattr("repa.evaluation.evaluate.load_reference", None)
    message = (
        r"^no weights for openai/clip-vit-large-patch14: download [^\n]*\(there is no network\)"
        r"[^\n]* with --clip-weights; or leave the CLIP score out with --clip none$"
    )
    with pytest.raises(RepaError, match=message):
        evaluate(options(emoji_dir, samples))


def test_a_clip_of_broken_weights(emoji_dir: Path, samples: Path, copy: Path, tiny: None) -> None:
    model = CLIPModel.from_pretrained(copy)
    model.text_projection.weight.data[0, 0] = torch.nan
    model.save_pretrained(copy)
    with pytest.raises(RepaError, match="gives scores that are not finite numbers: are its"):
        evaluate(options(emoji_dir, samples, clip=str(copy)))
