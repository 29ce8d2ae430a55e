"""The body that SiT and DiT share: patches in, adaLN-Zero blocks, patches out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from repa.errors import RepaError
from repa.models.backbone import Backbone
from repa.models.layers import AdaLNZeroBlock, FinalLayer, LabelEmbedder, unpatchify


class Transformer(Backbone, pipeline_tag="unconditional-image-generation"):
    """A class-conditional diffusion transformer (DiT, Peebles & Xie, ICCV 2023, Sec. 3.2).

    Conditions are labels (N,), int64.

    Args:
        input_size, patch_size, in_channels, out_channels, hidden_size, num_heads: see `Backbone`.
        depth: number of blocks.
        mlp_ratio: width of the MLP's hidden layer over D.
        num_classes: classes; labels run from 0 to num_classes - 1.
        class_dropout_prob: probability with which `drop_condition` replaces a label by the null
            class (index `num_classes`). 0 leaves the null class, and guidance with it, out.
        qk_norm: LayerNorm on queries and keys.
        fused_attn: use PyTorch's fused attention kernels.

    Raises:
        RepaError: if the sizes do not divide.
    """

    def __init__(
        self,
        input_size: int,
        patch_size: int,
        in_channels: int,
        out_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        num_classes: int,
        class_dropout_prob: float,
        qk_norm: bool,
        fused_attn: bool,
    ):
        super().__init__(input_size, patch_size, in_channels, out_channels, hidden_size, num_heads)
        self.num_classes = num_classes
        self.class_dropout_prob = class_dropout_prob
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, class_dropout_prob > 0)
        self.blocks = nn.ModuleList(
            AdaLNZeroBlock(hidden_size, num_heads, mlp_ratio, qk_norm, fused_attn)
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, out_channels)
        self.initialize_weights()

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def null_class(self) -> int:
        """The label that stands for "no class".

        Raises:
            RepaError: if the model was built without one.
        """
        if self.class_dropout_prob == 0:
            raise RepaError("this model has no null class (class_dropout_prob is 0): no guidance")
        return self.num_classes

    def null_condition(self, count: int) -> Tensor:
        """The null class (count,), int64.

        Raises:
            RepaError: if the model was built without one.
        """
        return torch.full((count,), self.null_class, device=self.device)

    def drop_condition(self, y: Tensor, uniform: Tensor) -> Tensor:
        """Labels y (N,), the null class where `uniform` (N,) in [0, 1) is below the probability."""
        if self.class_dropout_prob == 0:
            return y
        return torch.where(uniform < self.class_dropout_prob, self.null_class, y)

    def _forward(
        self, x: Tensor, t: Tensor, y: Tensor, look: Callable[[int, Tensor], None]
    ) -> Tensor:
        x = self.x_embedder(x) + self.pos_embed  # (N, T, D)
        c = self.t_embedder(t) + self.y_embedder(y)  # (N, D)
        for depth, block in enumerate(self.blocks, start=1):
            x = self.run_block(block, x, c)
            look(depth, x)
        return unpatchify(self.final_layer(x, c), self.patch_size, self.grid_size)


# name: (depth, width, heads). Ti is ours, for demos and tests; the others are the papers'.
SIZES = {
    "Ti": (6, 192, 3),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
