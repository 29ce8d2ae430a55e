"""The kinds of text encoders: CLIP, T5, sentence encoders and the packaged MiniLM.

transformers takes seconds to import, so functions do it that need it.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from safetensors import torch as safetensors

from repa.data.packaged import packaged_files
from repa.errors import RepaError, first_line
from repa.text.base import TextEncoder
from repa.text.folder import find_folder, load_network, load_tokenizer
from repa.weights import load_weights

T5_LENGTH = 120
SENTENCE_LENGTH = 128  # at most
MINILM_LENGTH = 32


def load_clip(name: str, place: str, weights: Path | None) -> TextEncoder:
    """A text model of CLIP (Radford et al., 2021), as U-ViT and Stable Diffusion 1 use it.

    Tokens are those after the final layer norm. Padding, which repeats the end of the text, is
    attended to: what comes later in the text is not, so only padding itself sees padding.

    Args:
        name: of the encoder.
        place: folder, or repository on the hub.
        weights: folder to take instead.

    Raises:
        RepaError: if the weights or the tokenizer cannot be had, or are another network's.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = find_folder(name, place, weights)
    network = load_network(CLIPTextModel, folder)
    tokenizer = load_tokenizer(CLIPTokenizer, folder, network)
    length = network.config.max_position_embeddings
    return TextEncoder(name, network, tokenizer, length, mask_padding=False)


def load_t5(name: str, place: str, weights: Path | None) -> TextEncoder:
    """The encoder of a T5 (Raffel et al., 2020), 120 tokens; arguments as `load_clip`."""
    from transformers import AutoTokenizer, T5EncoderModel

    folder = find_folder(name, place, weights)
    network = load_network(T5EncoderModel, folder)
    tokenizer = load_tokenizer(AutoTokenizer, folder, network)
    return TextEncoder(name, network, tokenizer, T5_LENGTH, mask_padding=True)


def load_sentence(
    name: str, place: str, weights: Path | None, length: int = SENTENCE_LENGTH
) -> TextEncoder:
    """Any network of transformers that encodes text alone, such as BERT; tokens are not pooled.

    Args:
        name, place, weights: as `load_clip`.
        length: tokens of a text, or the most that the network takes.

    Raises:
        RepaError: as `load_clip`, and if the network needs more than text.
    """
    from transformers import AutoModel, AutoTokenizer

    folder = find_folder(name, place, weights)
    network = load_network(AutoModel, folder)
    config = network.config
    if config.is_encoder_decoder or not hasattr(config, "hidden_size"):
        raise RepaError(
            f"{folder} holds a {config.model_type}, which does not encode text by itself; give an "
            "encoder such as BERT, or name it clip:... or t5:... if it is one of these"
        )
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # unused, and random where the files lack it
    tokenizer = load_tokenizer(AutoTokenizer, folder, network)
    most = getattr(config, "max_position_embeddings", length)
    length = min(length, most, tokenizer.model_max_length)
    return TextEncoder(name, network, tokenizer, length, mask_padding=True)


def load_minilm(name: str, place: str, weights: Path | None) -> TextEncoder:
    """all-MiniLM-L6-v2 (384 wide), 32 tokens, from a package that is read as data.

    Args:
        name: of the encoder.
        place: name of the package.
        weights: folder to take instead.

    Raises:
        RepaError: if the package is not installed or its file is broken.
    """
    if weights is not None:
        return load_sentence(name, place, weights, MINILM_LENGTH)
    [path] = packaged_files(place, "model.zip")
    try:
        network, tokenizer = _read_zip(path)
    except RepaError:
        raise
    except Exception as error:  # broken bytes raise almost anything
        raise RepaError(
            f"cannot read {name} from {path}: {first_line(error)}; install {place} again"
        ) from None
    return TextEncoder(name, network, tokenizer, MINILM_LENGTH, mask_padding=True)


def _read_zip(path: Path) -> tuple[Any, Any]:
    """Network and tokenizer from a zip of a folder in transformers' format; nothing is unpacked."""
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        state = safetensors.load(archive.read("model.safetensors"))
        tokenizer = Tokenizer.from_str(archive.read("tokenizer.json").decode())
    with init_empty_weights():
        network = BertModel(BertConfig.from_dict(config), add_pooling_layer=False)
    own = network.state_dict().keys()  # the file's pooler and position numbers are not used
    load_weights(network, {k: v for k, v in state.items() if k in own}, path, assign=True)
    return network, PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
