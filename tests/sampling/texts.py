"""A small model that draws texts, and images with captions."""

from pathlib import Path

import torch
from PIL import Image

from repa.checkpoints import CheckpointState
from repa.checkpoints.folder import write_folder
from repa.cli import main
from repa.data.format import AutoencoderRecord, TextRecord
from repa.models import create_model
from repa.text import create_text_encoder
from text.models import CLIP_DIM

NAME = "MMDiT-Ti/8"
SIDE = 16  # pixels
CAPTIONS = ["red heart", "police car", "cat face", "red car", "cat heart"]


def save_drawer(folder: Path, clip: Path, name: str | None = "clip-vit-l") -> Path:
    """A checkpoint of an MMDiT with random weights, trained with the CLIP in a folder.

    Args:
        folder: to write.
        clip: the CLIP, which the checkpoint calls `name`; None leaves unsaid which it was.
    """
    encoder = create_text_encoder("clip-vit-l", clip)
    arguments = {"input_size": SIDE, "in_channels": 3, "context_dim": CLIP_DIM}
    torch.manual_seed(0)
    model = create_model(NAME, **arguments)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.null_context.copy_(encoder([""])[0])
    record = TextRecord(length=77, dim=CLIP_DIM, mask_padding=False, weights=encoder.fingerprint)
    state = CheckpointState(
        step=7,
        model=NAME,
        model_arguments=arguments,
        autoencoder=AutoencoderRecord(name="pixel", latent_shape=(3, SIDE, SIDE)),
        resolution=SIDE,
        classes=["image"],
        options={} if name is None else {"text_enc_type": name},
        text=None if name is None else record,
        scaler=None,
        versions={},
    )
    folder.parent.mkdir(exist_ok=True)
    write_folder(folder, state, {"ema": model.state_dict()})
    return folder


def write_captioned(folder: Path, captions: list[str] | None = None) -> Path:
    """Images with a caption file each."""
    folder.mkdir()
    for i, caption in enumerate(CAPTIONS if captions is None else captions):
        Image.new("RGB", (SIDE, SIDE), (40 * i, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption + "\n", encoding="utf-8")
    return folder


def prepare_captioned(source: Path, dest: Path, clip: Path | None, *arguments: str) -> Path:
    """A prepared dataset of them, with tokens of the CLIP in a folder, if one is given."""
    words = ["prepare", f"--source={source}", f"--dest={dest}", f"--resolution={SIDE}"]
    words += ["--autoencoder=pixel", "--num-workers=0", "--device=cpu", *arguments]
    if clip is not None:
        words += ["--text-enc-type=clip-vit-l", f"--text-encoder-weights={clip}"]
    assert main(words) == 0
    return dest
