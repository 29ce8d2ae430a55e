"""The parts that the transformer backbones share.

Shapes: N samples, T tokens, D width. Module and parameter names follow DiT's published code, so
that a released state dict differs from ours only where the design does (`models/released.py`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHORT = 256  # tokens


class PatchEmbed(nn.Module):
    """Cuts an image or latent into patches and projects each to a token."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int):
        super().__init__()
        # It only holds the weights: a convolution's output has channels before places, and the
        # sum with positions, as all hidden states after it, would keep that order in memory.
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        size = self.proj.kernel_size
        patches = F.unfold(x, size, stride=size).transpose(1, 2)  # (N, C, H, W) -> (N, T, C p p)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)  # (N, T, D)


class TimestepEmbedder(nn.Module):
    """Sinusoidal features of the time (cosine, then sine), then a two-layer MLP."""

    frequencies: Tensor

    def __init__(self, hidden_size: int, num_frequencies: int = 256, max_period: float = 10_000):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(num_frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        frequencies = time_frequencies(num_frequencies // 2, max_period)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.frequencies.float()  # (N, half)
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        dtype = next(self.mlp.parameters()).dtype
        return self.mlp(features.to(dtype))  # (N, D)


def time_frequencies(count: int, max_period: float = 10_000) -> Tensor:
    """Angular frequencies (count,) of the time's features, from 1 down to 1 / max_period."""
    return torch.exp(-math.log(max_period) * torch.arange(count).float() / count)


class LabelEmbedder(nn.Module):
    """A table of class embeddings; with a null class, its row is the last one."""

    def __init__(self, num_classes: int, hidden_size: int, null_class: bool):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + int(null_class), hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)  # (N,) -> (N, D)


class Attention(nn.Module):
    """Multi-head self-attention, optionally with LayerNorm on queries and keys.

    With `fused` by PyTorch's fused kernels where they are faster, else as the formula has it.
    """

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool, fused: bool):
        super().__init__()
        self.num_heads = num_heads
        self.fused = fused
        head_dim = hidden_size // num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, T, D / heads)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        x = attend(q, k, v, self.fused)
        return self.proj(x.transpose(1, 2).reshape(n, t, d))


def attend(q: Tensor, k: Tensor, v: Tensor, fused: bool, mask: Tensor | None = None) -> Tensor:
    """`softmax(q k^T / sqrt(d)) v`, all (N, heads, tokens, d).

    Args:
        q, k, v: queries, keys, values.
        fused: by PyTorch's fused kernel, but for short sequences in half precision on a CPU, where
            that is slower than the formula (benchmarks/cpu_choices.py).
        mask: True where a key is seen, broadcast to (N, heads, tokens, tokens).
    """
    is_half = q.dtype in (torch.bfloat16, torch.float16)
    short = q.device.type == "cpu" and is_half and k.shape[2] <= SHORT
    if fused and not short:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ v


class Mlp(nn.Module):
    """Two linear layers with the tanh approximation of GELU between them."""

    def __init__(self, hidden_size: int, mlp_ratio: float):
        super().__init__()
        inner = int(hidden_size * mlp_ratio)
        self.fc1 = nn.Linear(hidden_size, inner)
        self.fc2 = nn.Linear(inner, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x (1 + scale) + shift`: x (N, T, D); shift and scale (N, D), the same for every token."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class AdaLNZeroBlock(nn.Module):
    """A transformer block whose norms and gates come from the condition (DiT, Sec. 3.2)."""

    def __init__(
        self, hidden_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool, fused_attn: bool
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden_size, num_heads, qk_norm, fused_attn)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(hidden_size, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1))
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Modulated norm and the projection of every token to its patch's output values."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))  # (N, T, p * p * C)


def unpatchify(tokens: Tensor, patch_size: int, rows: int) -> Tensor:
    """Tokens (N, T, p * p * C) of a grid of so many rows back to an image (N, C, H, W)."""
    n, t, values = tokens.shape
    p, columns = patch_size, t // rows
    x = tokens.reshape(n, rows, columns, p, p, values // (p * p))
    return x.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, rows * p, columns * p)


def sincos_position_embedding(hidden_size: int, grid: int) -> Tensor:
    """Fixed 2-D sine-cosine positions (1, grid * grid, D), as in MAE: columns first, then rows."""
    half = hidden_size // 2
    omega = 1.0 / 10_000 ** (torch.arange(half // 2, dtype=torch.float64) / (half // 2))
    rows, columns = torch.meshgrid(
        torch.arange(grid, dtype=torch.float64),
        torch.arange(grid, dtype=torch.float64),
        indexing="ij",
    )
    parts = []
    for position in (columns, rows):
        angles = position.reshape(-1, 1) * omega  # (T, D / 4)
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1).float().unsqueeze(0)
