"""SiT, the scalable interpolant transformer (Ma et al., ECCV 2024): DiT's body for velocities."""

from __future__ import annotations

from collections.abc import Collection
from typing import overload

import torch
from torch import Tensor, nn

from repa.errors import RepaError
from repa.models.layers import (
    AdaLNZeroBlock,
    FinalLayer,
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    sincos_position_embedding,
    unpatchify,
)


class SiT(nn.Module):
    """Predicts the velocity of a noisy image or latent, given its time and class.

    Args:
        input_size: side of the square input, a multiple of `patch_size`.
        patch_size: side of a patch; the transformer sees (input_size / patch_size)^2 tokens.
        in_channels: channels of the input and of the prediction.
        hidden_size: width D, a multiple of `num_heads` and of 4.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: width of the MLP's hidden layer over D.
        num_classes: classes; labels run from 0 to num_classes - 1.
        class_dropout_prob: probability with which `drop_labels` replaces a label by the null
            class (index `num_classes`). 0 leaves the null class, and guidance with it, out.
        qk_norm: LayerNorm on queries and keys.
        fused_attn: use PyTorch's fused attention kernels.
        decoder_hidden_size, use_cfg: accepted as the release's configurations name them. The
            first must equal `hidden_size`; the second changes nothing, there as here.

    Raises:
        RepaError: if the sizes do not divide.
    """

    pos_embed: Tensor

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        class_dropout_prob: float = 0.1,
        qk_norm: bool = False,
        fused_attn: bool = True,
        decoder_hidden_size: int | None = None,
        use_cfg: bool = True,
    ):
        super().__init__()
        if input_size % patch_size:
            raise RepaError(f"input size {input_size} is not a multiple of patch size {patch_size}")
        if hidden_size % num_heads or hidden_size % 4:
            raise RepaError(
                f"hidden size {hidden_size} must be a multiple of 4 and of the {num_heads} heads"
            )
        if decoder_hidden_size not in (None, hidden_size):
            raise RepaError(
                f"decoder_hidden_size {decoder_hidden_size} must equal hidden_size {hidden_size}"
            )
        self.input_size = input_size
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.hidden_size = hidden_size
        self.num_classes = num_classes
        self.class_dropout_prob = class_dropout_prob

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, class_dropout_prob > 0)
        self.register_buffer("pos_embed", sincos_position_embedding(hidden_size, self.grid_size))
        self.blocks = nn.ModuleList(
            AdaLNZeroBlock(hidden_size, num_heads, mlp_ratio, qk_norm, fused_attn)
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels)
        self.initialize_weights()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.pos_embed.device

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def grid_size(self) -> int:
        """Tokens along one side of the input."""
        return self.input_size // self.patch_size

    @property
    def null_class(self) -> int:
        """The label that stands for "no class".

        Raises:
            RepaError: if the model was built without one.
        """
        if self.class_dropout_prob == 0:
            raise RepaError("this model has no null class (class_dropout_prob is 0): no guidance")
        return self.num_classes

    def initialize_weights(self) -> None:
        """Xavier-uniform linear layers, N(0, 0.02) embeddings, zero modulation and output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                module.bias.data.zero_()
        # The patch projection is a linear layer over p * p * C values, whatever its storage.
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.startswith("t_embedder.mlp") and name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
            zero = ("x_embedder.proj.bias", "adaLN_modulation", "final_layer.linear")
            if any(part in name for part in zero):
                nn.init.zeros_(parameter)

    def drop_labels(self, y: Tensor, uniform: Tensor) -> Tensor:
        """Labels y (N,), the null class where `uniform` (N,) in [0, 1) is below the probability."""
        if self.class_dropout_prob == 0:
            return y
        return torch.where(uniform < self.class_dropout_prob, self.null_class, y)

    @overload
    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor: ...
    @overload
    def forward(
        self, x: Tensor, t: Tensor, y: Tensor, capture: Collection[int]
    ) -> tuple[Tensor, dict[int, Tensor]]: ...
    def forward(
        self, x: Tensor, t: Tensor, y: Tensor, capture: Collection[int] | None = None
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Predicts the velocity at `x`.

        Args:
            x: noisy input (N, C, H, W), float.
            t: times (N,), float in [0, 1]; 0 is data, 1 is noise.
            y: labels (N,), int64.
            capture: depths, 1 to `depth`, after whose block the hidden state is wanted.

        Returns:
            The velocity (N, C, H, W); with `capture`, also {depth: hidden state (N, T, D)}.
        """
        x = self.x_embedder(x) + self.pos_embed  # (N, T, D)
        c = self.t_embedder(t) + self.y_embedder(y)  # (N, D)
        hidden = {}
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, c)
            if capture is not None and depth in capture:
                hidden[depth] = x
        prediction = unpatchify(self.final_layer(x, c), self.patch_size)
        return prediction if capture is None else (prediction, hidden)


# name: (depth, width, heads). Ti is ours, for demos and tests; the others are the paper's.
SIT_SIZES = {
    "Ti": (6, 192, 3),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
