"""The training module: a batch in, named losses out.

It holds everything that has gradients, so it is what DDP wraps, what `torch.compile` sees and what
a test calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repa.alignment import ALIGNMENT_LOSSES, projection_heads
from repa.alignment.heads import ProjectionLayer
from repa.diffusion import Objective
from repa.errors import RepaError
from repa.models import Backbone


@dataclass
class Batch:
    """What one training step sees.

    Attributes:
        x: clean latents (N, C, H, W), float32.
        y: labels (N,), int64.
        noise: standard normal (N, C, H, W), float32.
        time_uniform, drop_uniform: uniform numbers (N,) in [0, 1) for time and label dropout.
        targets: tokens (N, T, D) of each encoder, normalized if they are to be, in the order of
            the heads.
    """

    x: Tensor
    y: Tensor
    noise: Tensor
    time_uniform: Tensor
    drop_uniform: Tensor
    targets: Sequence[Tensor] = ()


class TrainingModule(nn.Module):
    """Denoising with representation alignment (REPA, Eq. 9): `L_denoising + proj_coeff L_REPA`.

    Args:
        model: the backbone.
        objective: what it is trained for besides, flow matching (SiT) or DDPM (DiT).
        target_dims: widths of the encoders' tokens, one head each; none trains the plain model.
        encoder_depth: block after which the hidden state is aligned, from 1.
        proj_coeff: weight of the alignment loss.
        projector_dim: inner width of the heads, if they are MLPs.
        projection_layer: what the heads are, "mlp" (REPA) or "conv" (iREPA).
        projection_loss: a key of `repa.alignment.ALIGNMENT_LOSSES`.

    Raises:
        RepaError: if the model has no such depth.
    """

    def __init__(
        self,
        model: Backbone,
        objective: Objective,
        target_dims: Sequence[int] = (),
        encoder_depth: int = 8,
        proj_coeff: float = 0.5,
        projector_dim: int = 2048,
        projection_layer: ProjectionLayer = "mlp",
        projection_loss: str = "cosine",
    ):
        super().__init__()
        if target_dims and not 1 <= encoder_depth <= model.depth:
            raise RepaError(f"--encoder-depth {encoder_depth}: the model has {model.depth} blocks")
        self.model = model
        self.heads = projection_heads(
            model.hidden_size, target_dims, projector_dim, projection_layer
        )
        self.alignment_loss = ALIGNMENT_LOSSES[projection_loss]
        self.objective = objective
        self.encoder_depth = encoder_depth
        self.proj_coeff = proj_coeff

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses, float32: `loss`, `denoising_loss` and, with heads, `alignment_loss`.

        Where the objective's loss is a sum, its parts too.
        """
        t = self.objective.sample_time(batch.time_uniform)
        x_t = self.objective.add_noise(batch.x, batch.noise, t)
        y = self.model.drop_condition(batch.y, batch.drop_uniform)

        depths = (self.encoder_depth,) if self.heads else ()
        prediction, hidden = self.model(x_t, t, y, capture=depths)
        each = self.objective.losses(prediction, batch.x, batch.noise, t)
        losses = {name: values.mean() for name, values in each.items()}
        if not self.heads:
            return {"loss": losses["denoising_loss"], **losses}

        h = hidden[self.encoder_depth]
        pairs = zip(self.heads, batch.targets, strict=True)
        alignment = torch.stack([self.alignment_loss(head(h), y) for head, y in pairs]).mean()
        return {
            "loss": losses["denoising_loss"] + self.proj_coeff * alignment,
            **losses,
            "alignment_loss": alignment,
        }
