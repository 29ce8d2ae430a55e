"""Which backbone a state dict is of, told from its tensors alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from repa.errors import RepaError
from repa.models import FAMILIES, PATCH_SIZES


@dataclass(frozen=True)
class Architecture:
    """What the tensors of SiT or DiT say about their sizes; see `repa.models.Transformer`.

    Attributes:
        label_rows: rows of the label table: the classes and, as a rule, the null class.
        head_dim: width of an attention head, where the file tells it (with qk_norm).
    """

    depth: int
    hidden_size: int
    patch_size: int
    input_size: int
    in_channels: int
    out_channels: int
    label_rows: int
    head_dim: int | None

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalized."""
        return self.head_dim is not None

    @property
    def learns_sigma(self) -> bool:
        """Whether there is a second output beside each channel."""
        return self.out_channels == 2 * self.in_channels

    def name(self, family: str, path: Path) -> str:
        """The name, as `create_model` takes it, of the model of that family and these sizes.

        Raises:
            RepaError: if no named model has them.
        """
        sizes = FAMILIES[family][1]
        if self.patch_size in PATCH_SIZES:
            for size, (depth, hidden_size, num_heads) in sizes.items():
                fits = self.head_dim in (None, hidden_size // num_heads)
                if (depth, hidden_size) == (self.depth, self.hidden_size) and fits:
                    return f"{family}-{size}/{self.patch_size}"
        known = ", ".join(f"{name} {depth} x {width}" for name, (depth, width, _) in sizes.items())
        raise RepaError(
            f"{path}: {self.depth} blocks of width {self.hidden_size} with patches of "
            f"{self.patch_size} are no {family} with a name (blocks x width: {known}; patches of "
            f"{', '.join(map(str, PATCH_SIZES))})"
        )


def infer_architecture(state: Mapping[str, Tensor], path: Path) -> Architecture:
    """The sizes of SiT or DiT from its state dict, in our names.

    Raises:
        RepaError: if it is of something else.
    """

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        tensor = state.get(key)
        if not isinstance(tensor, Tensor) or tensor.ndim != dimensions or not all(tensor.shape):
            raise RepaError(
                f"{path} is no SiT or DiT: it has no {key} of {dimensions} dimensions (and none 0)"
            )
        return tuple(tensor.shape)

    hidden_size, in_channels, patch_size, _ = shape("x_embedder.proj.weight", 4)
    grid = math.isqrt(shape("pos_embed", 3)[1])
    norm = "blocks.0.attn.q_norm.weight"
    return Architecture(
        depth=len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        hidden_size=hidden_size,
        patch_size=patch_size,
        input_size=grid * patch_size,
        in_channels=in_channels,
        out_channels=shape("final_layer.linear.weight", 2)[0] // patch_size**2,
        label_rows=shape("y_embedder.embedding_table.weight", 2)[0],
        head_dim=shape(norm, 1)[0] if norm in state else None,
    )
