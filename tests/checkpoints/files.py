"""Small checkpoints in the formats of others, written as their training scripts write them."""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from repa.alignment import projection_heads
from repa.models import DiT, SiT, create_model

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
