"""Each kind against transformers' own call; the real MiniLM from its package."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    GPT2Config,
    GPT2Model,
    T5EncoderModel,
)

from repa.errors import RepaError
from repa.text import TEXT_ENCODERS, TextEncoder, create_text_encoder, families
from text.models import BERT_DIM, CLIP_DIM, END, START, T5_DIM, minilm_zip, save_bert

CAPTIONS = ["red heart", "", "police car " * 100]


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    minilm_zip()
    return create_text_encoder("minilm")


# CLIP


def test_clip_is_the_call_that_uvit_makes(clip: Path) -> None:
    """77 ids and no mask, as U-ViT's features and Stable Diffusion 1 were made."""
    encoder = create_text_encoder("clip-vit-l", clip)
    assert (encoder.name, encoder.dim, encoder.length) == ("clip-vit-l", CLIP_DIM, 77)
    assert not encoder.mask_padding
    ids = CLIPTokenizer.from_pretrained(clip)(
        CAPTIONS, truncation=True, max_length=77, padding="max_length", return_tensors="pt"
    ).input_ids
    assert ids.shape == (3, 77)
    with torch.no_grad():
        expected = CLIPTextModel.from_pretrained(clip)(input_ids=ids).last_hidden_state
    torch.testing.assert_close(encoder(CAPTIONS), expected)


def test_clips_text_starts_and_ends_also_where_it_is_cut(clip: Path) -> None:
    tokenizer = create_text_encoder(f"clip:{clip}").tokenizer
    short, cut = tokenizer(
        ["Red HEART", "red " * 100], truncation=True, max_length=77, padding="max_length"
    ).input_ids
    assert tokenizer.convert_ids_to_tokens(short[:6]) == [START, "red</w>", "heart</w>"] + [END] * 3
    assert tokenizer.convert_ids_to_tokens(cut)[::76] == [START, END]


def test_clips_padding_changes_nothing_before_it(clip: Path) -> None:
    encoder = create_text_encoder(f"clip:{clip}")
    ids = encoder.tokenizer(["red heart"], return_tensors="pt").input_ids
    with torch.no_grad():
        alone = encoder.network(input_ids=ids).last_hidden_state
    torch.testing.assert_close(encoder(["red heart"])[:, :4], alone, rtol=1e-5, atol=1e-5)


def test_clips_text_model_alone_is_that_of_the_whole(clip: Path, tmp_path: Path) -> None:
    """Stable Diffusion keeps the text model without the image model."""
    CLIPTextModel.from_pretrained(clip).save_pretrained(tmp_path)
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(clip / file, tmp_path)
    alone, whole = (create_text_encoder(f"clip:{folder}") for folder in (tmp_path, clip))
    assert torch.equal(alone(CAPTIONS), whole(CAPTIONS))
    assert alone.fingerprint == whole.fingerprint


def test_clips_length_is_its_networks(clip: Path, tmp_path: Path) -> None:
    shutil.copytree(clip, tmp_path, dirs_exist_ok=True)
    state = load_file(clip / "model.safetensors")
    position = "text_model.embeddings.position_embedding.weight"
    text = {name: value for name, value in state.items() if name.startswith("text_model.")}
    text[position] = text[position][:32].clone()
    save_file(text, tmp_path / "model.safetensors")
    config = CLIPTextConfig.from_pretrained(clip)
    config.max_position_embeddings = 32
    config.save_pretrained(tmp_path)
    encoder = create_text_encoder(f"clip:{tmp_path}")
    assert encoder.length == 32
    assert encoder(CAPTIONS).shape == (3, 32, CLIP_DIM)


# T5


@pytest.mark.parametrize("name", ["t5-small", "t5-base", "t5-large", "t5:{}"])
def test_t5_is_its_encoder_with_zeros_for_padding(t5: Path, name: str) -> None:
    encoder = create_text_encoder(name.format(t5), None if name == "t5:{}" else t5)
    assert (encoder.name, encoder.dim, encoder.length) == (name.format(t5), T5_DIM, 120)
    assert encoder.mask_padding
    batch = AutoTokenizer.from_pretrained(t5)(
        CAPTIONS, truncation=True, max_length=120, padding="max_length", return_tensors="pt"
    )
    with torch.no_grad():
        expected = T5EncoderModel.from_pretrained(t5)(**batch).last_hidden_state
    expected = expected * batch.attention_mask[..., None]
    torch.testing.assert_close(encoder(CAPTIONS), expected, rtol=1e-5, atol=1e-5)
    assert batch.attention_mask.sum(1).tolist() == [3, 1, 120]


# Sentence encoders


def test_a_sentence_encoder_is_the_network_before_pooling(bert: Path) -> None:
    encoder = create_text_encoder(f"sentence:{bert}")
    assert (encoder.dim, encoder.length, encoder.mask_padding) == (BERT_DIM, 20, True)
    batch = AutoTokenizer.from_pretrained(bert)(
        CAPTIONS, truncation=True, max_length=20, padding="max_length", return_tensors="pt"
    )
    with torch.no_grad():
        expected = BertModel.from_pretrained(bert)(**batch).last_hidden_state
    expected = expected * batch.attention_mask[..., None]
    torch.testing.assert_close(encoder(CAPTIONS), expected, rtol=1e-5, atol=1e-5)


def test_a_sentence_is_128_tokens_at_most(tmp_path: Path) -> None:
    encoder = create_text_encoder(f"sentence:{save_bert(tmp_path, length=200)}")
    assert encoder.length == 128
    assert encoder(["red " * 300]).shape == (1, 128, BERT_DIM)


def test_a_pooler_that_files_lack_is_not_missed(bert: Path, tmp_path: Path) -> None:
    """Nor do the random numbers show that transformers draws for it."""
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    state = load_file(bert / "model.safetensors")
    rest = {name: value for name, value in state.items() if not name.startswith("pooler.")}
    assert len(rest) == len(state) - 2
    save_file(rest, tmp_path / "model.safetensors", metadata={"format": "pt"})
    before = torch.get_rng_state()
    without, whole = (create_text_encoder(f"sentence:{folder}") for folder in (tmp_path, bert))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(without(CAPTIONS), whole(CAPTIONS))
    assert without.fingerprint == whole.fingerprint


def test_networks_that_need_more_than_text_are_refused(t5: Path, clip: Path) -> None:
    for folder, kind in ((t5, "t5"), (clip, "clip")):
        with pytest.raises(RepaError, match=f"holds a {kind}, which does not encode text by"):
            create_text_encoder(f"sentence:{folder}")


def test_a_tokenizer_that_cannot_pad_is_refused(clip: Path, tmp_path: Path) -> None:
    GPT2Model(GPT2Config(vocab_size=600, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(clip / file, tmp_path)
    with pytest.raises(RepaError, match="its tokenizer cannot pad, or makes no token of an empty"):
        create_text_encoder(f"sentence:{tmp_path}")


# The packaged MiniLM


def test_minilm_knows_what_names_mean(minilm: TextEncoder) -> None:
    names = ["red heart", "heart", "police car"]
    tokens, lengths = minilm(names), minilm.lengths(names)
    assert tokens.shape == (3, 32, 384)
    assert minilm.mask_padding
    assert lengths == [4, 3, 4]
    means = [text[:length].mean(0) for text, length in zip(tokens, lengths, strict=True)]
    near, far = (F.cosine_similarity(means[0], mean, dim=0) for mean in means[1:])
    assert near > 0.6
    assert far < 0.4


def test_minilm_is_read_as_transformers_reads_it(minilm: TextEncoder, tmp_path: Path) -> None:
    with zipfile.ZipFile(minilm_zip()) as archive:
        archive.extractall(tmp_path)
    captions = ["red heart", "", "a smiling cat with heart-shaped eyes " * 20]
    folder = create_text_encoder("minilm", tmp_path)
    assert folder.length == 32
    assert create_text_encoder(f"sentence:{tmp_path}").length == 128
    torch.testing.assert_close(folder(captions), minilm(captions))
    assert folder.lengths(captions) == minilm.lengths(captions)
    assert folder.fingerprint == minilm.fingerprint
    assert minilm.lengths(captions)[2] > 128  # the file says to cut there


def test_minilms_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEXT_ENCODERS, "minilm", (families.load_minilm, "no-such-package"))
    with pytest.raises(RepaError, match=r"no-such-package is not installed.*repa\[demo\]"):
        create_text_encoder("minilm")


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (None, "File is not a zip file"),
        ({}, r"There is no item named 'config\.json' in the archive"),
        ({"config.json": "{"}, "Expecting property name"),
        ({"config.json": "{}", "model.safetensors": "xx"}, "header"),
    ],
)
def test_minilms_file_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, contents: dict | None, reason: str
) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(b"nothing")
    if contents is not None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in contents.items():
                archive.writestr(name, text)
    monkeypatch.setattr(families, "packaged_files", lambda package, part: [path])
    with pytest.raises(RepaError, match=f"cannot read minilm from .*{reason}.*install all-"):
        create_text_encoder("minilm")
