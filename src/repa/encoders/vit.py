"""Published vision transformers as encoders: one row each, one network of timm for all.

timm takes seconds to import, so functions do it that need it: preparing pixels does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download, try_to_load_from_cache
from torch import Tensor, nn

from repa.encoders.base import HALF, IMAGENET_MEAN, IMAGENET_STD, Description, Encoder, own_grid
from repa.encoders.vit_files import to_timm
from repa.errors import RepaError, first_line
from repa.weights import load_weights, read_weights

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

HUB_FILES = ["model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin"]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ViT:
    """One published encoder.

    Attributes:
        network: timm's name, with the tag of the weights that timm downloads.
        files: names of the weight file: the one to give it, then the publisher's where another.
        patch: side of a patch in pixels.
        dim: width of a token.
        millions: parameters, in millions.
        mean, std: of the pixels, by channel.
        final_norm: whether tokens are those after the final norm, or those after the last block.
        part: prefix of the encoder's names in a file that holds more.
        extra: beginnings of names, without prefix, that are in the file and not in the encoder.
        arguments: where the network is not quite timm's.
        hosted: whether timm has the weights.
    """

    network: str
    files: tuple[str, ...]
    patch: int
    dim: int
    millions: float
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    final_norm: bool = True
    part: str = ""
    extra: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    hosted: bool = True


def _dinov2(size: str, dim: int, millions: float, registers: str = "") -> ViT:
    network = f"vit_{size}_patch14_{registers}dinov2.lvd142m"
    file = f"dinov2_vit{size[0]}14_{registers}pretrain.pth"
    return ViT(network, (file,), 14, dim, millions, part="backbone.")


def _dinov3(size: str, dim: int, millions: float, file: str) -> ViT:
    # Meta's files hold biases of queries and values, which timm's variant without `qkvb` lacks.
    network = f"vit_{size}_patch16_dinov3_qkvb.lvd1689m"
    return ViT(network, (file,), 16, dim, millions, part="backbone.")


def _moco(size: str, dim: int, millions: float, files: tuple[str, ...], **arguments: Any) -> ViT:
    network = f"vit_{size}_patch16_224"
    return ViT(
        network, files, 16, dim, millions,
        part="base_encoder.", extra=("head.",), arguments=arguments, hosted=False,
    )  # fmt: skip


VITS = {
    "dinov1-vit-b": ViT(
        "vit_base_patch16_224.dino", ("dinov1_vitb.pth", "dino_vitbase16_pretrain.pth"),
        16, 768, 85.8, part="backbone.",
    ),
    "dinov2-vit-s": _dinov2("small", 384, 21.6),
    "dinov2-vit-b": _dinov2("base", 768, 85.7),
    "dinov2-vit-l": _dinov2("large", 1024, 303.2),
    "dinov2-vit-g": _dinov2("giant", 1536, 1134.8),
    "dinov2reg-vit-s": _dinov2("small", 384, 21.6, "reg4_"),
    "dinov2reg-vit-b": _dinov2("base", 768, 85.7, "reg4_"),
    "dinov2reg-vit-l": _dinov2("large", 1024, 303.2, "reg4_"),
    "dinov2reg-vit-g": _dinov2("giant", 1536, 1134.8, "reg4_"),
    "dinov3-vit-s": _dinov3(
        "small", 384, 21.6, "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"
    ),
    "dinov3-vit-b": _dinov3(
        "base", 768, 85.7, "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth"
    ),
    "dinov3-vit-l": _dinov3(
        "large", 1024, 303.1, "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth"
    ),
    # timm's ViT-S has 6 heads, MoCo v3's 12.
    "mocov3-vit-s": _moco(
        "small", 384, 21.7, ("mocov3_vits.pth", "vit-s-300ep.pth.tar"), num_heads=12
    ),
    "mocov3-vit-b": _moco("base", 768, 85.8, ("mocov3_vitb.pth", "vit-b-300ep.pth.tar")),
    "mocov3-vit-l": _moco("large", 1024, 303.4, ("mocov3_vitl.pth",)),
    "clip-vit-L": ViT(
        "vit_large_patch14_clip_quickgelu_224.openai", ("clip_vitl.pth",),
        14, 1024, 303.2, CLIP_MEAN, CLIP_STD,
        final_norm=False, part="visual.", extra=("proj", "head."),
    ),
    "jepa-vit-h": ViT(
        "vit_huge_patch14_gap_224.in1k_ijepa", ("ijepa_vith.pth", "IN1K-vit.h.14-300e.pth.tar"),
        14, 1280, 630.8,
    ),
    "mae-vit-l": ViT(
        "vit_large_patch16_224.mae", ("mae_vitl.pth", "mae_pretrain_vit_large.pth"),
        16, 1024, 303.4, final_norm=False, extra=("decoder_", "mask_token"),
    ),
    # Published with an attention pooling, which the `gap` variant does without.
    "siglip2-vit-b": ViT(
        "vit_base_patch16_siglip_gap_256.v2_webli", ("siglip2_vitb.safetensors",),
        16, 768, 85.8, HALF, HALF, extra=("attn_pool.",),
    ),
}  # fmt: skip


class ViTEncoder(Encoder):
    """Patch tokens of a vision transformer; 16x16 of them at 256 px, 32x32 at 512.

    Images are brought to that many patches: to 224 or 448 px where a patch is 14 px wide. Positions
    are resampled to fit. Class and register tokens are dropped.

    Args:
        name: a key of `VITS`.
        resolution: side of the images in pixels.
        grid_size: tokens a side to return, the network's own by default.
        weights: the published file, or a folder that holds it; without it, timm downloads them.

    Raises:
        RepaError: if the weights cannot be had or do not fit.
    """

    def __init__(
        self, name: str, resolution: int, grid_size: int | None = None, weights: Path | None = None
    ):
        row = VITS[name]
        grid = own_grid(resolution)
        network = _build(name, row, row.patch * grid, weights)
        if not row.final_norm:
            network.norm = nn.Identity()
        network.patch_embed.register_forward_hook(_in_order)
        super().__init__(
            name,
            network,
            dim=network.num_features,
            input_size=row.patch * grid,
            grid_size=grid_size or grid,
            mean=row.mean,
            std=row.std,
        )

    def tokens(self, pixels: Tensor) -> Tensor:
        return self.network.forward_features(pixels)[:, self.network.num_prefix_tokens :]

    @classmethod
    def describe(cls, name: str, resolution: int, folder: Path) -> Description:
        row, grid = VITS[name], own_grid(resolution)
        file = find_weights(row, folder)
        source = row.files[0] + (" or download" if row.hosted else "")
        found = str(file) if file else _cached_by_the_hub(row)
        if _timm_config(row) is None:
            source, found = "needs a newer timm", None
        return Description(row.millions, row.patch * grid, grid, row.dim, source, found)


def _in_order(module: nn.Module, inputs: tuple[Tensor], patches: Tensor) -> Tensor:
    """Patches (N, T, D) in that order in memory.

    timm's are a convolution's, channels before places, and in a network that puts no class token
    before them all hidden states would keep that order.
    """
    return patches.contiguous()


def _build(name: str, row: ViT, input_size: int, weights: Path | None) -> Any:
    import timm

    if _timm_config(row) is None:
        raise RepaError(f"{name} needs a newer timm than {timm.__version__}: pip install -U timm")
    options = {"img_size": input_size, "num_classes": 0, **row.arguments}
    if weights is not None and _is_file(weights):
        return read_vit(weights, row, options)
    if (file := find_weights(row, weights)) is not None:
        return read_vit(file, row, options)
    advice = f"put {row.files[0]} into {weights or 'ckpts'}/ or name it with --encoder-weights"
    if not row.hosted:
        raise RepaError(f"no weights for {name}, which are not downloaded: {advice}")
    return download_vit(name, row, options, advice)


def download_vit(name: str, row: ViT, options: dict[str, Any], advice: str) -> Any:
    """timm's network of a row with the weights on the hub, downloaded if its cache lacks them.

    Args:
        name: of the network, for messages.
        row: which network.
        options: of timm's network.
        advice: what to do without a download.

    Raises:
        RepaError: if they cannot be downloaded.
    """
    import timm

    config = _timm_config(row)
    assert config is not None  # or timm is too old, which has been said
    hosted_by_hub = config.hf_hub_id is not None
    place = str(config.hf_hub_id if hosted_by_hub else config.url)
    try:
        if not hosted_by_hub:
            file = Path(torch.hub.get_dir(), "checkpoints", Path(place).name)
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(place, str(file))
            return read_vit(file, row, options)
        # At first, as timm makes the network before it asks for these, and asks for long.
        snapshot_download(place, allow_patterns=HUB_FILES[:2])
        return timm.create_model(row.network, pretrained=True, **options)
    except RepaError:
        raise
    except Exception as error:  # the hub's client has its own and requests' errors
        raise RepaError(
            f"no weights for {name}: download of {place} failed ({first_line(error)}); {advice}"
        ) from None


def read_vit(file: Path, row: ViT, options: dict[str, Any]) -> Any:
    """timm's network of a row, made with `options`, with the weights of an official file.

    Raises:
        RepaError: if the file cannot be read or does not fit.
    """
    import timm
    from timm.models import eva, vision_transformer

    state = read_weights(file)
    # Random weights would take longer to draw than the real ones to read.
    with init_empty_weights():
        network: Any = timm.create_model(row.network, **options)
    module = eva if isinstance(network, eva.Eva) else vision_transformer
    state = to_timm(state, network, module.checkpoint_filter_fn, row.part, row.extra, file)
    load_weights(network, state, file, assign=True)
    return network


def _is_file(path: Path) -> bool:
    """Whether a path means a file: if it is one, or is named like one and is not there."""
    return path.is_file() or (path.suffix != "" and not path.is_dir())


def find_weights(row: ViT, folder: Path | None) -> Path | None:
    """The first of the encoder's files in a folder, else among the downloads of `torch.hub`."""
    return next((file for file in _candidates(row, folder) if file.is_file()), None)


def _candidates(row: ViT, folder: Path | None) -> Iterator[Path]:
    names = (*row.files, str(Path(row.files[0]).with_suffix(".safetensors")))
    for place in ([] if folder is None else [folder]) + [Path(torch.hub.get_dir(), "checkpoints")]:
        yield from (place / name for name in names)


def _cached_by_the_hub(row: ViT) -> str | None:
    config = _timm_config(row)
    if not row.hosted or config is None or config.hf_hub_id is None:
        return None
    # The answer is a path, None, or a marker that the hub has no such file.
    paths = (try_to_load_from_cache(config.hf_hub_id, name) for name in HUB_FILES)
    return next((path for path in paths if isinstance(path, str)), None)


def _timm_config(row: ViT) -> PretrainedCfg | None:
    """What timm says of the weights; None where it is too old to know them."""
    import timm

    try:
        return timm.get_pretrained_cfg(row.network, allow_unregistered=False)
    except RuntimeError:
        return None
