"""Small checkpoints of MMDiT: ours, and the release's as its `train_t2i.py` writes them."""

import argparse
from pathlib import Path

import torch
from torch import nn

from repa.alignment import projection_heads
from repa.checkpoints import CheckpointState
from repa.checkpoints.folder import write_folder
from repa.data.format import AutoencoderRecord
from repa.diffusion import FlowMatching
from repa.models import MMDiT, create_model
from repa.training.checkpoint import checkpoint_parts
from repa.training.module import TrainingModule

NAME = "MMDiT-Ti/4"
ARGUMENTS = {"input_size": 8, "context_dim": 12, "context_length": 5}
# Those of train_t2i.py, which names no model. Ours is smaller than the release's only one.
ARGS = {
    "output_dir": "exps",
    "exp_name": "run",
    "encoder_depth": 2,
    "fused_attn": True,
    "qk_norm": False,
    "data_dir": "coco256_features",
    "resolution": 256,
    "batch_size": 256,
    "learning_rate": 1e-4,
    "path_type": "cosine",
    "prediction": "v",
    "cfg_prob": 0.3,
    "enc_type": "dinov2-vit-b",
    "legacy": True,
}


class ReleasedMMDiT(nn.Module):
    """The release's modules in its order: positions a buffer, heads last, no empty text."""

    def __init__(self, model: MMDiT, heads: nn.Module):
        super().__init__()
        self.x_embedder = model.x_embedder
        self.t_embedder = model.t_embedder
        self.context_embedder = model.context_embedder
        self.register_buffer("pos_embed", model.pos_embed)
        self.joint_blocks = model.joint_blocks
        self.final_layer = model.final_layer
        self.projectors = heads


def random_mmdit(seed: int = 0, **arguments) -> MMDiT:
    """A model whose every tensor matters."""
    torch.manual_seed(seed)
    model = create_model(NAME, **(ARGUMENTS | arguments))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    model.null_context.normal_()
    return model.eval()


def released_mmdit(seed: int = 0, **arguments) -> ReleasedMMDiT:
    model = random_mmdit(seed, **arguments)
    heads = projection_heads(model.hidden_size, [8, 12], 16)
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.05)
    return ReleasedMMDiT(model, heads)


def t2i_checkpoint() -> dict:
    """`{model, ema, opt, args, steps}` after two optimizer steps."""
    model, ema = released_mmdit(0), released_mmdit(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    for _ in range(2):
        sum(p.square().sum() for p in model.parameters()).backward()
        optimizer.step()
    return {
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "opt": optimizer.state_dict(),
        "args": argparse.Namespace(**ARGS),
        "steps": 7,
    }


def t2i_state_of_the_release() -> dict[str, torch.Tensor]:
    """Names and sizes of the release's only model, 24 x 768; each tensor one number, repeated."""
    with torch.device("meta"):
        model = create_model("MMDiT-S/2")
        state = ReleasedMMDiT(model, projection_heads(768, [768], 2048)).state_dict()
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}


def text_module(seed: int) -> tuple[TrainingModule, MMDiT, torch.optim.Optimizer]:
    """A training module, its average and its optimizer, with every tensor of its own."""
    model = random_mmdit(seed)
    module = TrainingModule(model, FlowMatching(), [8, 12], 2, projector_dim=16)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-4, betas=(0.8, 0.95))
    sum(p.square().sum() for p in module.parameters()).backward()
    optimizer.step()
    return module, random_mmdit(seed + 1), optimizer


def save_ours(folder: Path, **arguments) -> Path:
    """A checkpoint of a run of ours."""
    more = {"in_channels": 4, "mask_padding": False, "context_dropout_prob": 0.1, "qk_norm": False}
    state = CheckpointState(
        step=9,
        model=NAME,
        model_arguments=ARGUMENTS | more | {"fused_attn": True} | arguments,
        autoencoder=AutoencoderRecord(name="sd-vae-ft-ema", scale=0.18215, latent_shape=(4, 8, 8)),
        resolution=64,
        classes=["image"],
        options={"path_type": "linear", "learning_rate": 2e-4, "adam_beta1": 0.8},
        scaler=None,
        versions={"torch": "2.6"},
    )
    write_folder(folder, state, checkpoint_parts(*text_module(20)))
    return folder
