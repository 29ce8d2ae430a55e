"""The body that SiT and DiT share: patches in, adaLN-Zero blocks, patches out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ClassVar, Literal, overload

import torch
from huggingface_hub import PyTorchModelHubMixin
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
from repa.weights import load_weights, read_weights


class Transformer(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="repa",
    tags=["diffusion", "image-generation"],
    pipeline_tag="unconditional-image-generation",
):
    """A class-conditional diffusion transformer (DiT, Peebles & Xie, ICCV 2023, Sec. 3.2).

    `save_pretrained` and `from_pretrained` write and read a folder, or a repository on the Hugging
    Face hub, with `config.json` (the constructor's arguments) and `model.safetensors`.

    Args:
        input_size: side of the square input, a multiple of `patch_size`.
        patch_size: side of a patch; the transformer sees (input_size / patch_size)^2 tokens.
        in_channels: channels of the input.
        out_channels: channels of the prediction.
        hidden_size: width D, a multiple of `num_heads` and of 4.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: width of the MLP's hidden layer over D.
        num_classes: classes; labels run from 0 to num_classes - 1.
        class_dropout_prob: probability with which `drop_labels` replaces a label by the null
            class (index `num_classes`). 0 leaves the null class, and guidance with it, out.
        qk_norm: LayerNorm on queries and keys.
        fused_attn: use PyTorch's fused attention kernels.

    Attributes:
        objective: how it is trained and sampled: "flow" (times in [0, 1]) or "ddpm" (noise and
            variance, times 0 to 999); see `repa.diffusion.create_objective`.

    Raises:
        RepaError: if the sizes do not divide.
    """

    objective: ClassVar[Literal["flow", "ddpm"]]
    pos_embed: Tensor

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
        super().__init__()
        if input_size % patch_size:
            raise RepaError(f"input size {input_size} is not a multiple of patch size {patch_size}")
        if hidden_size % num_heads or hidden_size % 4:
            raise RepaError(
                f"hidden size {hidden_size} must be a multiple of 4 and of the {num_heads} heads"
            )
        self.input_size = input_size
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.out_channels = out_channels
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
        self.final_layer = FinalLayer(hidden_size, patch_size, out_channels)
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
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        capture: Collection[int],
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]: ...
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        capture: Collection[int] | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Predicts at `x`.

        Args:
            x: noisy input (N, C, H, W), float.
            t: times (N,), float or integer, embedded as they are; see the class for their range.
            y: labels (N,), int64.
            capture: depths, 1 to `depth`, after whose block the hidden state is wanted.
            reduce: applied to each of these states at once, so that not all of them are kept.

        Returns:
            The prediction (N, out_channels, H, W); with `capture`, also {depth: hidden state
            (N, T, D), or what `reduce` makes of it}.
        """
        x = self.x_embedder(x) + self.pos_embed  # (N, T, D)
        c = self.t_embedder(t) + self.y_embedder(y)  # (N, D)
        hidden = {}
        for depth, block in enumerate(self.blocks, start=1):
            x = block(x, c)
            if capture is not None and depth in capture:
                hidden[depth] = x if reduce is None else reduce(x)
        prediction = unpatchify(self.final_layer(x, c), self.patch_size)
        return prediction if capture is None else (prediction, hidden)

    # What `from_pretrained` calls. The mixin's own would leave missing weights at random values.
    @classmethod
    def _load_as_safetensor(
        cls, model: Any, model_file: str, map_location: str, strict: bool
    ) -> Any:
        file = Path(model_file)
        load_weights(model, read_weights(file), file)
        return model.to(map_location).eval()

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        raise RepaError(f"no model.safetensors beside {model_file}: pickled weights are not read")


# name: (depth, width, heads). Ti is ours, for demos and tests; the others are the papers'.
SIZES = {
    "Ti": (6, 192, 3),
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
