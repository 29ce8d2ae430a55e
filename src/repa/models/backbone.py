"""What every backbone has: hidden states to look at, a condition to drop, the hub's format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ClassVar, Literal, overload

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repa.errors import RepaError
from repa.models.layers import PatchEmbed, TimestepEmbedder, sincos_position_embedding
from repa.weights import load_weights, read_weights

Reduce = Callable[[Tensor], Tensor]


class Backbone(
    nn.Module,
    PyTorchModelHubMixin,
    ABC,
    library_name="repa",
    tags=["diffusion", "image-generation"],
):
    """A diffusion transformer on the patches of an image or latent.

    `save_pretrained` and `from_pretrained` write and read a folder, or a repository on the Hugging
    Face hub, with `config.json` (the constructor's arguments) and `model.safetensors`.

    Args:
        input_size: side of the square input, a multiple of `patch_size`.
        patch_size: side of a patch; the transformer sees (input_size / patch_size)^2 tokens.
        in_channels: channels of the input.
        out_channels: channels of the prediction.
        hidden_size: width D, a multiple of `num_heads` and of 4.
        num_heads: attention heads.

    Attributes:
        objective: how it is trained and sampled: "flow" (times in [0, 1]) or "ddpm" (noise and
            variance, times 0 to 999).
        gradient_checkpointing: computes each block anew in the backward pass instead of keeping
            what is inside it (Chen et al., 2016).

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
        num_heads: int,
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
        self.gradient_checkpointing = False
        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.register_buffer("pos_embed", sincos_position_embedding(hidden_size, self.grid_size))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.pos_embed.device

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of blocks."""

    @property
    def grid_size(self) -> int:
        """Tokens along one side of the input."""
        return self.input_size // self.patch_size

    @abstractmethod
    def null_condition(self, count: int) -> Tensor:
        """What stands for "no condition", `count` times.

        Raises:
            RepaError: if the model has none.
        """

    @abstractmethod
    def drop_condition(self, y: Tensor, uniform: Tensor) -> Tensor:
        """Conditions y (N, ...), the null one where `uniform` (N,) in [0, 1) says so."""

    @abstractmethod
    def _forward(
        self, x: Tensor, t: Tensor, y: Tensor, look: Callable[[int, Tensor], None]
    ) -> Tensor:
        """The prediction; calls `look(depth, hidden state)` after each block, from 1."""

    def run_block(self, block: nn.Module, *inputs: Tensor | None) -> Any:
        """What a block returns for these inputs; see `gradient_checkpointing`."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # Nothing in a block is random: no state of generators is kept.
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return block(*inputs)

    def initialize_weights(self) -> None:
        """Xavier-uniform linear layers, N(0, 0.02) embeddings, zero modulation and output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                module.bias.data.zero_()
        # The patch projection is a linear layer over p * p * C values, whatever its storage.
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.startswith("t_embedder.mlp") and name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
            zero = ("x_embedder.proj.bias", "adaLN_modulation", "final_layer.linear")
            if any(part in name for part in zero):
                nn.init.zeros_(parameter)

    @overload
    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor: ...
    @overload
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        capture: Collection[int],
        reduce: Reduce | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]: ...
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        capture: Collection[int] | None = None,
        reduce: Reduce | None = None,
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Predicts at `x`.

        Args:
            x: noisy input (N, C, H, W), float.
            t: times (N,), float or integer, embedded as they are; see the class for their range.
            y: conditions (N, ...); see the class for what they are.
            capture: depths, 1 to `depth`, after whose block the hidden state is wanted.
            reduce: applied to each of these states at once, so that not all of them are kept.

        Returns:
            The prediction (N, out_channels, H, W); with `capture`, also {depth: hidden state
            (N, T, D) of the image's tokens, or what `reduce` makes of it}.

        Raises:
            RepaError: if the input is not of whole patches.
        """
        height, width = x.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise RepaError(
                f"an input of {height} x {width}: expected multiples of the patch size "
                f"{self.patch_size}"
            )
        hidden: dict[int, Tensor] = {}

        def look(depth: int, state: Tensor) -> None:
            if capture is not None and depth in capture:
                hidden[depth] = state if reduce is None else reduce(state)

        prediction = self._forward(x, t, y, look)
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
