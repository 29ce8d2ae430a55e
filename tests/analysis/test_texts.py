"""`repa probe` and `repa align` of a text-to-image model: it is told the empty text."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from checkpoints.text_files import ARGS, NAME, random_mmdit, released_mmdit
from repa.analysis.hidden_states import hidden_states
from repa.analysis.probe import run_probe
from repa.checkpoints import load_model
from repa.cli import main
from repa.config import ProbeOptions
from repa.data import PreparedDataset
from repa.diffusion import FlowMatching
from repa.errors import RepaError
from repa.text import create_text_encoder
from text.models import CLIP_DIM, save_bert, save_clip

SIZES = {"in_channels": 3, "input_size": 32, "context_dim": CLIP_DIM}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the release for the emoji, without the empty text's tokens."""
    path = tmp_path_factory.mktemp("released") / "0000010.pt"
    args = ARGS | {"model": NAME, "enc_type": "efficientnet-lite0"}
    torch.save({"ema": released_mmdit(0, **SIZES).state_dict(), "args": args, "steps": 10}, path)
    return path


def options(released: Path, emoji_dir: Path, out: Path, **changes) -> ProbeOptions:
    values = {"ckpt": released, "data_dir": emoji_dir, "times": 0.5, "device": "cpu"}
    values |= {"output_dir": out, "depths": 2, "enc_type": "none"}
    return ProbeOptions.model_validate(values | changes)


def fingerprints(found: dict) -> set[str]:
    return {row["fingerprint"] for row in found["rows"] if row["subject"] == "model"}


def test_the_release_has_the_empty_text_encoded(released, emoji_dir, clip, tmp_path) -> None:
    found = run_probe(options(released, emoji_dir, tmp_path / "a", text_encoder_weights=clip))
    other = save_clip(tmp_path / "other", seed=1)
    given = {"text_enc_type": f"clip:{other}"}
    differing = run_probe(options(released, emoji_dir, tmp_path / "b", **given))
    assert fingerprints(found) != fingerprints(differing)


def test_its_hidden_states_are_those_of_the_empty_text(
    released, emoji_dir, emoji: PreparedDataset, clip, tmp_path: Path, monkeypatch
) -> None:
    seen: list[Tensor] = []
    real = hidden_states

    def note(model, *arguments) -> Tensor:
        seen.append(model.null_context.clone())
        return real(model, *arguments)

    monkeypatch.setattr("repa.analysis.subjects.hidden_states", note)
    words = ["align", f"--ckpt={released}", f"--data-dir={emoji_dir}", "--times=0.5", "--depths=2"]
    words += ["--device=cpu", f"--output-dir={tmp_path}", f"--text-encoder-weights={clip}"]
    assert main(words) == 0
    rows = json.loads((tmp_path / "align.json").read_text())["rows"]
    assert [row["model"] for row in rows] == [NAME]
    empty = create_text_encoder("clip-vit-l", clip)([""])[0]
    assert len(seen) == 1
    assert torch.equal(seen[0], empty)
    model, _ = load_model(released)
    wrong = hidden_states(model, emoji, range(4), [2], FlowMatching())
    model.null_context = empty
    assert not torch.allclose(hidden_states(model, emoji, range(4), [2], FlowMatching()), wrong)


def test_without_the_text_encoder_nothing_is_found_out(released, emoji_dir, tmp_path) -> None:
    with pytest.raises(RepaError, match=r"no weights for clip-vit-l: .* --text-encoder-weights"):
        run_probe(options(released, emoji_dir, tmp_path))
    bert = save_bert(tmp_path / "bert")
    given = {"text_enc_type": f"sentence:{bert}"}
    with pytest.raises(RepaError, match=f"gives tokens of 32, {NAME} takes {CLIP_DIM}"):
        run_probe(options(released, emoji_dir, tmp_path, **given))


def test_a_model_that_knows_the_empty_text_needs_no_text_encoder(emoji_dir, tmp_path) -> None:
    path = tmp_path / "ours.pt"
    torch.save(random_mmdit(0, context_length=77, **SIZES).state_dict(), path)
    found = run_probe(options(path, emoji_dir, tmp_path / "a"))
    assert len(fingerprints(found)) == 1
