"""DiT, the diffusion transformer (Peebles & Xie, ICCV 2023)."""

from __future__ import annotations

from repa.models.transformer import Transformer


class DiT(Transformer):
    """Predicts the noise in an image or latent, given its step and class.

    Times are the steps 0 to 999 of the 1,000-step process. The prediction (N, 2 C, H, W) is the
    noise, then what the variance is made from (improved DDPM, Nichol & Dhariwal 2021, Eq. 15).

    Args:
        input_size, patch_size, in_channels, hidden_size, depth, num_heads, mlp_ratio, num_classes,
        class_dropout_prob, qk_norm, fused_attn: see `Transformer`.
        learn_sigma: False predicts the noise alone, (N, C, H, W).

    Raises:
        RepaError: if the sizes do not divide.
    """

    objective = "ddpm"

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
        learn_sigma: bool = True,
    ):
        super().__init__(
            input_size=input_size,
            patch_size=patch_size,
            in_channels=in_channels,
            out_channels=2 * in_channels if learn_sigma else in_channels,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            num_classes=num_classes,
            class_dropout_prob=class_dropout_prob,
            qk_norm=qk_norm,
            fused_attn=fused_attn,
        )
