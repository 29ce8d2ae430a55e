from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from encoders.published import save_published, shrink, timm_state
from repa.errors import RepaError
from repa.evaluation.networks import create_network

NAME = "dinov2-vit-l"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch, NAME)


def cubic_weights(old: int, new: int, scale: float) -> Tensor:
    """(new, old): the cubic kernel with a = -0.75, sampled at steps of 1 / scale."""
    a = -0.75
    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        center = (i + 0.5) / scale - 0.5
        for j in range(int(center // 1) - 1, int(center // 1) + 3):
            t = abs(center - j)
            if t <= 1:
                w = (a + 2) * t**3 - (a + 3) * t**2 + 1
            else:
                w = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
            weights[i, min(max(j, 0), old - 1)] += w
    return weights


def test_it_is_the_published_network(small: None, tmp_path: Path) -> None:
    state = timm_state(NAME)  # positions of 37x37 patches
    network = create_network("dinov2", save_published(NAME, state, tmp_path))
    images = torch.randint(256, (3, 3, 40, 50), dtype=torch.uint8)
    features = network(images).features

    x = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    x = x.flatten(2).transpose(1, 2)  # (3, 256, 48)
    weights = cubic_weights(37, 16, 16.1 / 37)
    grid = state["pos_embed"][0, 1:].double().view(37, 37, 48)
    positions = torch.einsum("yi,xj,ijd->yxd", weights, weights, grid).view(256, 48).float()
    x = torch.cat(
        [(state["cls_token"] + state["pos_embed"][:, :1]).expand(3, 1, 48), x + positions], 1
    )
    plain = timm.create_model(
        "vit_large_patch14_dinov2", img_size=224, depth=2, embed_dim=48, num_heads=3
    ).eval()
    plain.load_state_dict({k: v for k, v in state.items() if k != "pos_embed"}, strict=False)
    expected = plain.norm(plain.blocks(x))[:, 0]
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    assert expected.std(0).mean() > 0.01
    assert (network.dim, network.spatial_dim) == (48, 0)


def test_positions_are_not_resampled_as_timm_does_it(small: None, tmp_path: Path) -> None:
    state = timm_state(NAME)
    network = create_network("dinov2", save_published(NAME, state, tmp_path))
    theirs = timm.layers.resample_abs_pos_embed(state["pos_embed"], [16, 16])
    assert network.network.pos_embed.shape == theirs.shape == (1, 257, 48)
    assert (network.network.pos_embed - theirs).abs().max() > 0.01
    assert torch.equal(network.network.pos_embed[:, 0], state["pos_embed"][:, 0])


def test_the_whole_network_has_the_published_names() -> None:
    """Not made small; weightless, as only its names and shapes matter."""
    with torch.device("meta"):
        network = timm.create_model("vit_large_patch14_dinov2", img_size=518, num_classes=0)
    state = network.state_dict()
    assert state["pos_embed"].shape == (1, 1 + 37 * 37, 1024)
    assert len([key for key in state if key.startswith("blocks.23.")]) == 14
    assert state["blocks.0.ls1.gamma"].shape == (1024,)


def test_weights_that_cannot_be_had_are_one_clear_line(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RepaError) as caught:
        create_network("dinov2")
    message = str(caught.value)
    assert "\n" not in message
    parts = ("dinov2_vitl14_pretrain.pth", str(tmp_path / "hub" / "checkpoints"))
    for part in (*parts, "--network-weights (--eval-network-weights "):
        assert part in message


def test_a_file_among_torchs_downloads_is_found(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    save_published(NAME, timm_state(NAME), tmp_path / "hub" / "checkpoints")
    assert create_network("dinov2").dim == 48


def test_other_weights_are_one_clear_line(small: None, tmp_path: Path) -> None:
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(RepaError, match=r"^[^\n]*x.pth does not fit the network: [^\n]*$"):
        create_network("dinov2", tmp_path / "x.pth")
