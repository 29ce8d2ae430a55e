"""SiT, the scalable interpolant transformer (Ma et al., ECCV 2024): DiT's body for velocities."""

from __future__ import annotations

from repa.errors import RepaError
from repa.models.transformer import Transformer


class SiT(Transformer):
    """Predicts the velocity (N, C, H, W) of a noisy image or latent, given its time and class.

    Times are in [0, 1]: 0 is data, 1 is noise. Trained with `--prediction eps` or `x` it predicts
    the noise or the data; see `repa.diffusion.FlowMatching`.

    Args:
        input_size, patch_size, in_channels, hidden_size, depth, num_heads, mlp_ratio, num_classes,
        class_dropout_prob, qk_norm, fused_attn: see `Transformer`.
        decoder_hidden_size, use_cfg: accepted as the release's configurations name them. The
            first must equal `hidden_size`; the second changes nothing, there as here.

    Raises:
        RepaError: if the sizes do not divide.
    """

    objective = "flow"

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
        if decoder_hidden_size not in (None, hidden_size):
            raise RepaError(
                f"decoder_hidden_size {decoder_hidden_size} must equal hidden_size {hidden_size}"
            )
        super().__init__(
            input_size=input_size,
            patch_size=patch_size,
            in_channels=in_channels,
            out_channels=in_channels,
            hidden_size=hidden_size,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            num_classes=num_classes,
            class_dropout_prob=class_dropout_prob,
            qk_norm=qk_norm,
            fused_attn=fused_attn,
        )
