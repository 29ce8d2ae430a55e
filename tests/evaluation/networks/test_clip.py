from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch_fidelity.feature_extractor_clip import VisionTransformer

from encoders.published import make_network, published_state, shrink
from repa.encoders.vit import VITS
from repa.errors import RepaError
from repa.evaluation.networks import clip, create_network
from repa.evaluation.networks.clip import pillow_bicubic


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """As OpenAI's file holds it, for a small network."""
    small = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    monkeypatch.setattr(clip, "ROW", replace(clip.ROW, arguments=small))
    shrink(monkeypatch, "clip-vit-L")
    assert VITS["clip-vit-L"].arguments == small
    contents = published_state("clip-vit-L", make_network("clip-vit-L", 336).state_dict())
    contents["visual.proj"] = torch.randn(48, 768, generator=torch.Generator().manual_seed(0))
    return contents


def test_it_is_openais_network(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Against torch-fidelity's copy of their code."""
    torch.save(state, tmp_path / "clip_vitl_336.pth")
    network = create_network("clip", tmp_path / "clip_vitl_336.pth")
    theirs = VisionTransformer(336, 14, width=48, layers=2, heads=3, output_dim=768)
    visual = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    theirs.load_state_dict(visual)
    images = torch.randint(256, (3, 3, 336, 336), dtype=torch.uint8)  # no resizing
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.no_grad():
        ours, expected = network(images).features, theirs((images / 255 - mean) / std)
    torch.testing.assert_close(ours, F.normalize(expected), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(3))
    assert ours.shape == (3, 768)
    assert F.cosine_similarity(ours[:1], ours[1:]).max() < 0.9999
    assert network.network.num_classes == network.dim == 768


@pytest.mark.parametrize("size", [(32, 32), (256, 256), (336, 336), (512, 512), (47, 47)])
def test_images_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    resized = Image.fromarray(pixels).resize((336, 336), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    ours = pillow_bicubic(torch.from_numpy(pixels).permute(2, 0, 1)[None], 336)[0]
    assert torch.equal(ours, ours.round())
    difference = (ours - expected).abs()
    assert difference.max() <= 2  # one of each pass
    assert difference.mean() < 0.001


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_the_middle_square_is_compared(
    state: dict[str, Tensor], tmp_path: Path, shape: tuple[int, int]
) -> None:
    torch.save(state, tmp_path / "x.pth")
    network = create_network("clip", tmp_path / "x.pth")
    images = torch.randint(256, (1, 3, *shape), dtype=torch.uint8)
    top, left = (shape[0] - 40) // 2, (shape[1] - 40) // 2
    square = images[:, :, top : top + 40, left : left + 40]
    assert torch.equal(network(images).features, network(square).features)


def test_weights_that_cannot_be_had_are_one_clear_line(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RepaError, match=r"^no weights for clip: [^\n]*clip_vitl_336.pth[^\n]*$"):
        create_network("clip")
