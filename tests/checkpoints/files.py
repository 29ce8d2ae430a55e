"""Small checkpoints: ours, and those of others as their training scripts write them."""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from repa.alignment import projection_heads
from repa.checkpoints import CheckpointState
from repa.checkpoints.folder import write_folder
from repa.cli import main
from repa.data.format import AutoencoderRecord
from repa.diffusion import FlowMatching
from repa.models import DiT, SiT, create_model
from repa.training.checkpoint import checkpoint_parts
from repa.training.module import TrainingModule

NAME = "SiT-Ti/4"
ARGUMENTS = {"input_size": 8, "num_classes": 3}
DEPTH = 2
ARGS = {
    "output_dir": "exps",
    "exp_name": "run",
    "model": NAME,
    "num_classes": 3,
    "encoder_depth": DEPTH,
    "fused_attn": True,
    "qk_norm": False,
    "resolution": 64,
    "batch_size": 256,
    "learning_rate": 1e-4,
    "seed": 5,
    "path_type": "cosine",
    "cfg_prob": 0.1,
    "enc_type": "dinov2-vit-b",
    "legacy": False,
}


class ReleasedModel(nn.Module):
    """The release's modules in its order: heads inside, positions a frozen parameter."""

    def __init__(self, model: SiT | DiT, heads: nn.Module):
        super().__init__()
        self.pos_embed = nn.Parameter(model.pos_embed, requires_grad=False)
        self.x_embedder = model.x_embedder
        self.t_embedder = model.t_embedder
        self.y_embedder = model.y_embedder
        self.blocks = model.blocks
        self.projectors = heads
        self.final_layer = model.final_layer


def random_model(name: str = NAME, seed: int = 0, **arguments) -> SiT | DiT:
    """A model whose every tensor matters."""
    torch.manual_seed(seed)
    model = create_model(name, **(ARGUMENTS | arguments))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model.eval()


def released_model(seed: int = 0, **arguments) -> ReleasedModel:
    model = random_model(seed=seed, **arguments)
    heads = projection_heads(model.hidden_size, [8, 12], 16)
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.05)
    return ReleasedModel(model, heads)


def training_checkpoint(**changes) -> dict:
    """`{model, ema, opt, args, steps}` after two optimizer steps."""
    model, ema = released_model(0), released_model(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    for _ in range(2):
        sum(p.square().sum() for p in model.parameters() if p.requires_grad).backward()
        optimizer.step()
    content = {
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "opt": optimizer.state_dict(),
        "args": argparse.Namespace(**ARGS),
        "steps": 7,
    }
    return {k: v for k, v in (content | changes).items() if v is not None}


def legacy_names(state: dict[str, Tensor], depth: int = DEPTH) -> dict[str, Tensor]:
    """The same weights as early versions of the release named them."""

    def rename(key: str) -> str:
        prefix, _, rest = key.partition(".")
        index, _, rest = rest.partition(".")
        is_later = prefix == "blocks" and int(index) >= depth
        return f"decoder_blocks.{int(index) - depth}.{rest}" if is_later else key

    return {rename(key): tensor for key, tensor in state.items()}


def save(content: dict, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def assert_same(one, other, where: str = "") -> None:
    """Nested dicts, lists and tensors, equal to the bit and in type."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def convert(ckpt: Path, dest: Path, to: str, *more: str) -> Path:
    arguments = ["convert", "--ckpt", str(ckpt), "--dest", str(dest), "--to", to, *more]
    assert main(arguments) == 0
    return dest


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def training_parts(seed: int, heads: bool = True) -> tuple:
    """A training module, its average and its optimizer, with every tensor of its own."""
    model = random_model(seed=seed)
    module = TrainingModule(model, FlowMatching(), [8, 12] if heads else [], 2, projector_dim=16)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-4, betas=(0.8, 0.95))
    sum(p.square().sum() for p in module.parameters()).backward()
    optimizer.step()
    return module, random_model(seed=seed + 1), optimizer


def save_ours(folder: Path, heads: bool = True) -> Path:
    state = CheckpointState(
        step=9,
        model=NAME,
        model_arguments=ARGUMENTS | {"in_channels": 4, "class_dropout_prob": 0.1},
        autoencoder=AutoencoderRecord(name="sd-vae-ft-ema", scale=0.18215, latent_shape=(4, 8, 8)),
        resolution=64,
        classes=["a", "b", "c"],
        options={"path_type": "linear", "learning_rate": 2e-4, "adam_beta1": 0.8, "data_dir": "d"},
        scaler={"scale": 65536.0, "growth_tracker": 3},
        versions={"torch": "2.6"},
    )
    write_folder(folder, state, checkpoint_parts(*training_parts(20, heads)))
    return folder
