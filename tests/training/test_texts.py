"""Where a run's texts come from: stored tokens, or captions and a small text encoder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from repa.cli import main
from repa.config import TrainOptions
from repa.data import PreparedDataset, open_dataset
from repa.errors import RepaError
from repa.text import TextEncoder, create_text_encoder
from repa.training import preview, train
from repa.training import texts as module
from repa.training.texts import Texts, open_texts
from text.models import save_bert, save_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def stored(emoji_dir: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Emoji, their names, and the names' tokens."""
    folder = tmp_path_factory.mktemp("stored") / "emoji"
    shutil.copytree(emoji_dir, folder)
    add = ["prepare", f"--dest={folder}", "--text-enc-type=clip-vit-l", "--device=cpu"]
    assert main([*add, f"--text-encoder-weights={clip}", "--num-workers=0"]) == 0
    return folder


@pytest.fixture
def text_options(options):
    """As `options`, for a model that takes texts."""

    def make(**changes) -> TrainOptions:
        return options(**{"model": "MMDiT-Ti/8", "enc_type": "none"} | changes)

    return make


def opened(options: TrainOptions) -> Texts | None:
    return open_texts(options, open_dataset(options.data_dir), Accelerator(cpu=True))


def test_stored_tokens_need_no_encoder(text_options, stored: Path) -> None:
    texts = opened(text_options(data_dir=stored))
    assert texts is not None
    assert texts.encoder is None
    assert texts.record == PreparedDataset(stored).manifest.text["clip-vit-l"]
    assert texts.empty.shape == (texts.record.length, texts.record.dim)


def test_stored_and_computed_tokens_are_alike(text_options, stored, clip, emoji_dir) -> None:
    ours = opened(text_options(data_dir=stored))
    theirs = opened(text_options(data_dir=emoji_dir, text_encoder_weights=clip))
    assert ours is not None
    assert theirs is not None
    torch.testing.assert_close(ours.empty, theirs.empty, rtol=1e-2, atol=1e-2)
    tokens = [texts.conditions(PreparedDataset(stored), [5])([0]) for texts in (ours, theirs)]
    torch.testing.assert_close(*(t.float() for t in tokens), rtol=1e-2, atol=1e-2)


def test_a_model_of_classes_has_none(options) -> None:
    assert opened(options()) is None


def test_weights_that_made_the_stored_tokens_may_be_named(text_options, stored, clip) -> None:
    texts = opened(text_options(data_dir=stored, text_encoder_weights=clip))
    assert texts is not None
    assert texts.encoder is None


@pytest.mark.parametrize(("known", "whose"), [(True, "other"), (False, "unknown")])
def test_other_weights_than_those_of_the_stored_tokens_are_refused(
    text_options, stored: Path, tmp_path: Path, known: bool, whose: str
) -> None:
    folder, other = tmp_path / "data", save_clip(tmp_path / "other", seed=1)
    shutil.copytree(stored, folder)
    if not known:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["text"]["clip-vit-l"]["weights"] = ""
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RepaError) as caught:
        opened(text_options(data_dir=folder, text_encoder_weights=other))
    assert str(caught.value) == (
        f"--text-encoder-weights {other}: {folder} has tokens of clip-vit-l by {whose} weights; "
        "leave it out to train on these, or prepare another dataset with it"
    )


@pytest.mark.parametrize("has_tokens", [False, True])
def test_a_dataset_without_captions_or_their_tokens_is_refused(
    text_options, stored: Path, tmp_path: Path, has_tokens: bool
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(stored, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"has_captions": False}
    if not has_tokens:
        manifest["text"] = {}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RepaError) as caught:
        opened(text_options(data_dir=folder, text_enc_type="minilm"))
    advice = (
        ", only the tokens of clip-vit-l; choose that"
        if has_tokens
        else "; prepare a source that has some, with `repa prepare --text-enc-type minilm`"
    )
    assert str(caught.value) == f"--text-enc-type minilm: {folder} has no captions{advice}"


@pytest.mark.parametrize("counted", [64, 16])
def test_captions_that_are_cut_are_told(
    text_options, emoji_dir: Path, tmp_path: Path, counted: int, capsys, monkeypatch
) -> None:
    """Of as many images as are looked at, spread over the dataset."""
    monkeypatch.setattr(module, "COUNTED", counted)
    name = f"sentence:{save_bert(tmp_path / 'bert')}"  # 20 tokens, each a letter
    opened(text_options(text_enc_type=name))
    dataset = PreparedDataset(emoji_dir)
    captions = [c for i in range(0, 64, 64 // counted) for c in dataset.captions(i)]
    lengths = create_text_encoder(name).lengths(captions)
    cut = sum(length > 20 for length in lengths)
    assert 1 < cut < len(captions)
    of = "" if counted == 64 else " of 16 images"
    assert capsys.readouterr().err.endswith(
        f"note: {cut} of {len(captions)} captions{of} are longer than 20 tokens and are cut\n"
    )


def test_nothing_is_told_where_nothing_is_cut(text_options, stored, clip, emoji_dir, capsys):
    opened(text_options(data_dir=stored))
    opened(text_options(data_dir=emoji_dir, text_encoder_weights=clip))
    assert "cut" not in capsys.readouterr().err


def test_previews_have_their_texts_beside_them(text_options, stored: Path, monkeypatch) -> None:
    monkeypatch.setattr(preview, "IMAGES", 3)
    run = train(text_options(data_dir=stored, max_train_steps=1, sampling_steps=1))
    dataset = PreparedDataset(stored)
    names = [dataset.captions(index)[0] for index in (0, 21, 42)]
    lines = (run / "previews" / "prompts.txt").read_text(encoding="utf-8").splitlines()
    assert lines == names
    assert (run / "previews" / "0000001.png").is_file()


def test_a_preview_of_classes_has_no_texts(options, monkeypatch) -> None:
    monkeypatch.setattr(preview, "IMAGES", 3)
    run = train(options(max_train_steps=1, sampling_steps=1))
    assert [path.name for path in (run / "previews").iterdir()] == ["0000001.png"]


def test_tokens_that_are_not_finite_end_the_run(
    text_options, emoji_dir: Path, clip: Path, monkeypatch
) -> None:
    forward = TextEncoder._encode
    monkeypatch.setattr(TextEncoder, "_encode", lambda *given: forward(*given) * float("inf"))
    with pytest.raises(RepaError, match="the text encoder clip-vit-l makes tokens that are not"):
        train(text_options(data_dir=emoji_dir, text_encoder_weights=clip))
