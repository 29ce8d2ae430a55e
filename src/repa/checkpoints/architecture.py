"""Which backbone a state dict is of, told from its tensors alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from repa.errors import RepaError
from repa.models import FAMILIES, PATCH_SIZES
from repa.models.released import MMDIT_PREFIX, NULL_CONTEXT, is_mmdit

NOT_OURS = "is no SiT, DiT or MMDiT"


@dataclass(frozen=True)
class Architecture:
    """What the tensors of a backbone say about its sizes; see `repa.models.Backbone`.

    Attributes:
        head_dim: width of an attention head, where the file tells it (with qk_norm).
    """

    depth: int
    hidden_size: int
    patch_size: int
    input_size: int
    in_channels: int
    out_channels: int
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


@dataclass(frozen=True)
class ClassArchitecture(Architecture):
    """SiT's or DiT's.

    Attributes:
        label_rows: rows of the label table: the classes and, as a rule, the null class.
    """

    label_rows: int


@dataclass(frozen=True)
class TextArchitecture(Architecture):
    """MMDiT's.

    Attributes:
        context_dim: width of the text's tokens.
        context_length: tokens of the empty text; None in the release's files, which do not hold it.
    """

    context_dim: int
    context_length: int | None


def infer_architecture(state: Mapping[str, Tensor], path: Path) -> Architecture:
    """The sizes of SiT, DiT or MMDiT from its state dict, in our names.

    Raises:
        RepaError: if it is of something else.
    """

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        tensor = state.get(key)
        if not isinstance(tensor, Tensor) or tensor.ndim != dimensions or not all(tensor.shape):
            raise RepaError(
                f"{path} {NOT_OURS}: it has no {key} of {dimensions} dimensions (and none 0)"
            )
        return tuple(tensor.shape)

    of_text = is_mmdit(state)
    blocks = MMDIT_PREFIX if of_text else "blocks."
    norm = "joint_blocks.0.x_block.attn.ln_q.weight" if of_text else "blocks.0.attn.q_norm.weight"
    hidden_size, in_channels, patch_size, _ = shape("x_embedder.proj.weight", 4)
    sizes: dict[str, Any] = {
        "depth": len({key.split(".")[1] for key in state if key.startswith(blocks)}),
        "hidden_size": hidden_size,
        "patch_size": patch_size,
        "input_size": math.isqrt(shape("pos_embed", 3)[1]) * patch_size,
        "in_channels": in_channels,
        "out_channels": shape("final_layer.linear.weight", 2)[0] // patch_size**2,
        "head_dim": shape(norm, 1)[0] if norm in state else None,
    }
    if not of_text:
        label_rows = shape("y_embedder.embedding_table.weight", 2)[0]
        return ClassArchitecture(label_rows=label_rows, **sizes)
    return TextArchitecture(
        context_dim=shape("context_embedder.weight", 2)[1],
        context_length=shape(NULL_CONTEXT, 2)[0] if NULL_CONTEXT in state else None,
        **sizes,
    )
