"""MMDiT, the text-to-image transformer of Stable Diffusion 3 (Esser et al., ICML 2024)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repa.errors import RepaError
from repa.models.backbone import Backbone
from repa.models.layers import FinalLayer, Mlp, attend, modulate, unpatchify

Heads = tuple[Tensor, Tensor, Tensor]  # queries, keys, values, each (N, heads, tokens, D / heads)


class MMDiT(Backbone, pipeline_tag="text-to-image"):
    """Predicts the velocity (N, C, H, W) of a noisy image or latent, given its time and a text.

    Times are in [0, 1]: 0 is data, 1 is noise. Conditions are the text's tokens (N, L, context_dim)
    of any number L; the null condition is the tokens of the empty text, the buffer `null_context`,
    which its user fills. Text and image have their own weights and attend jointly; hidden states
    are the image's. Inputs of other sizes, square or not, see the middle of the position table; a
    RepaError is raised where they are larger than it.

    Args:
        input_size, patch_size, in_channels: see `Backbone`.
        depth: number of blocks; of the last one, the text's output is not computed.
        hidden_size, num_heads: 32 a block and one a block by default, as in the release.
        mlp_ratio: width of the MLPs' hidden layers over D.
        context_dim: width of the text's tokens.
        context_length: tokens of the empty text.
        context_dropout_prob: probability with which `drop_condition` replaces a text by the empty
            one.
        mask_padding: text tokens of zeros are padding, which is not attended to. The release
            attends to all.
        qk_norm: LayerNorm on queries and keys.
        fused_attn: use PyTorch's fused attention kernels.

    Raises:
        RepaError: if the sizes do not divide.
    """

    objective = "flow"
    null_context: Tensor

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        depth: int = 24,
        hidden_size: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        context_dim: int = 768,
        context_length: int = 77,
        context_dropout_prob: float = 0.1,
        mask_padding: bool = False,
        qk_norm: bool = False,
        fused_attn: bool = True,
    ):
        hidden_size = 32 * depth if hidden_size is None else hidden_size
        num_heads = depth if num_heads is None else num_heads
        super().__init__(input_size, patch_size, in_channels, in_channels, hidden_size, num_heads)
        self.context_dropout_prob = context_dropout_prob
        self.mask_padding = mask_padding
        self.register_buffer("null_context", torch.zeros(context_length, context_dim))
        self.context_embedder = nn.Linear(context_dim, hidden_size)
        self.joint_blocks = nn.ModuleList(
            JointBlock(hidden_size, num_heads, mlp_ratio, qk_norm, fused_attn, block == depth - 1)
            for block in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels)
        self.initialize_weights()

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.joint_blocks)

    def null_condition(self, count: int) -> Tensor:
        """The empty text's tokens (count, L, context_dim)."""
        return self.null_context.expand(count, -1, -1)

    def drop_condition(self, y: Tensor, uniform: Tensor) -> Tensor:
        """Texts y (N, L, context_dim), empty where `uniform` (N,) is below the probability."""
        dropped = (uniform < self.context_dropout_prob)[:, None, None]
        length = max(y.shape[1], len(self.null_context))
        return torch.where(dropped, pad(self.null_context, length).to(y.dtype), pad(y, length))

    def _forward(
        self, x: Tensor, t: Tensor, y: Tensor, look: Callable[[int, Tensor], None]
    ) -> Tensor:
        rows, columns = (side // self.patch_size for side in x.shape[-2:])
        x = self.x_embedder(x) + self.cropped_positions(rows, columns)  # (N, T, D)
        c = self.t_embedder(t)  # (N, D)
        mask = None
        if self.mask_padding:
            attended = torch.cat([(y != 0).any(-1), y.new_ones(x.shape[:2], dtype=torch.bool)], 1)
            mask = attended[:, None, None, :]  # (N, 1, 1, L + T): keys that all queries see
        context = self.context_embedder(y.to(self.context_embedder.weight.dtype))  # (N, L, D)
        for depth, block in enumerate(self.joint_blocks, start=1):
            context, x = self.run_block(block, context, x, c, mask)
            look(depth, x)
        return unpatchify(self.final_layer(x, c), self.patch_size, rows)

    def cropped_positions(self, rows: int, columns: int) -> Tensor:
        """The middle of the position table, (1, rows * columns, D).

        Raises:
            RepaError: if the table is smaller.
        """
        grid = self.grid_size
        if rows > grid or columns > grid:
            raise RepaError(f"{rows} x {columns} patches are more than the model's {grid} x {grid}")
        top, left = (grid - rows) // 2, (grid - columns) // 2
        table = self.pos_embed.unflatten(1, (grid, grid))
        return table[:, top : top + rows, left : left + columns].flatten(1, 2)


def pad(tokens: Tensor, length: int) -> Tensor:
    """Tokens (..., L, D) with zeros behind them, (..., length, D)."""
    return F.pad(tokens, (0, 0, 0, length - tokens.shape[-2]))


class JointBlock(nn.Module):
    """Text and image, each with adaLN-Zero and weights of its own, in one attention.

    With `context_ends` the text is only attended to, and not changed.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_ratio: float,
        qk_norm: bool,
        fused_attn: bool,
        context_ends: bool,
    ):
        super().__init__()
        self.fused = fused_attn
        self.context_block = Stream(hidden_size, num_heads, mlp_ratio, qk_norm, context_ends)
        self.x_block = Stream(hidden_size, num_heads, mlp_ratio, qk_norm, ends=False)

    def forward(
        self, context: Tensor, x: Tensor, c: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        length = context.shape[1]
        context_heads, context_rest = self.context_block.before(context, c)
        x_heads, x_rest = self.x_block.before(x, c)
        pairs = zip(context_heads, x_heads, strict=True)
        q, k, v = (torch.cat(pair, dim=2) for pair in pairs)  # (N, heads, L + T, D / heads)
        attended = attend(q, k, v, self.fused, mask).transpose(1, 2).flatten(2)  # (N, L + T, D)
        if not self.context_block.ends:
            context = self.context_block.after(context, attended[:, :length], context_rest)
        return context, self.x_block.after(x, attended[:, length:], x_rest)


class Stream(nn.Module):
    """One modality's half of a joint block: what comes before the attention, and after it."""

    def __init__(
        self, hidden_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool, ends: bool
    ):
        super().__init__()
        self.ends = ends
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = StreamAttention(hidden_size, num_heads, qk_norm, ends)
        if not ends:
            self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
            self.mlp = Mlp(hidden_size, mlp_ratio)
        modulations = 2 if ends else 6
        self.adaLN_modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(hidden_size, modulations * hidden_size)
        )

    def before(self, x: Tensor, c: Tensor) -> tuple[Heads, tuple[Tensor, ...]]:
        """Queries, keys and values, and the modulations for `after`."""
        shift, scale, *rest = self.adaLN_modulation(c).chunk(2 if self.ends else 6, dim=1)
        return self.attn(modulate(self.norm1(x), shift, scale)), tuple(rest)

    def after(self, x: Tensor, attended: Tensor, modulations: tuple[Tensor, ...]) -> Tensor:
        """The stream (N, tokens, D) with what was attended to, and through the MLP."""
        gate1, shift2, scale2, gate2 = modulations
        x = x + gate1.unsqueeze(1) * self.attn.proj(attended)
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class StreamAttention(nn.Module):
    """The projections of one modality into the joint attention, and out of it."""

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool, ends: bool):
        super().__init__()
        self.num_heads = num_heads
        head_dim = hidden_size // num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        if not ends:
            self.proj = nn.Linear(hidden_size, hidden_size)
        self.ln_q = nn.LayerNorm(head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.ln_k = nn.LayerNorm(head_dim, eps=1e-6) if qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Heads:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, tokens, D / heads)
        return self.ln_q(q).to(v.dtype), self.ln_k(k).to(v.dtype), v


# name: (depth, width, heads). S is the paper's; Ti is ours, for demos and tests.
SIZES = {"Ti": (6, 192, 3), "S": (24, 768, 24)}
