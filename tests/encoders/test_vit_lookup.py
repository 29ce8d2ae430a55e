"""Where weights are looked for: a file, a folder, the downloads of torch.hub, timm's hub."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from encoders.published import images, no_download, published_state, save_published, shrink
from encoders.published import timm_state as random_state
from repa.encoders import create_encoder, create_encoders
from repa.encoders.vit import VITS
from repa.errors import RepaError

ALIKE = "dinov1-vit-b", "mocov3-vit-b"  # the same network
NAME = "dinov2-vit-s"
OFFICIAL = "dinov2_vits14_pretrain.pth"


@pytest.fixture(autouse=True)
def torch_hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of downloads, empty."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    (folder / "checkpoints").mkdir()
    return folder / "checkpoints"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hugging Face hub's cache, empty."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def put_into_cache(cache: Path, name: str, state: dict[str, Tensor]) -> Path:
    repository = timm.get_pretrained_cfg(VITS[name].network).hf_hub_id  # type: ignore[union-attr]
    folder = cache / ("models--" + repository.replace("/", "--"))
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / "model.safetensors")
    return snapshot / "model.safetensors"


def bias_of(encoder: Any) -> float:
    return encoder.network.patch_embed.proj.bias[0].item()


def state_with_bias(name: str, bias: float) -> dict[str, Tensor]:
    state = random_state(name)
    state["patch_embed.proj.bias"][0] = bias
    return state


def test_the_order_of_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, torch_hub: Path, hub_cache: Path
) -> None:
    """The file named, the folder named, torch.hub's downloads, and only then the hub."""
    shrink(monkeypatch, NAME)
    put_into_cache(hub_cache, NAME, state_with_bias(NAME, 1))
    assert bias_of(create_encoder(NAME, weights=tmp_path)) == 1
    assert bias_of(create_encoder(NAME)) == 1
    tried = no_download(monkeypatch)
    save_published(NAME, state_with_bias(NAME, 2), torch_hub)
    assert bias_of(create_encoder(NAME, weights=tmp_path)) == 2
    assert bias_of(create_encoder(NAME)) == 2
    save_published(NAME, state_with_bias(NAME, 3), tmp_path)
    assert bias_of(create_encoder(NAME, weights=tmp_path)) == 3
    torch.save(state_with_bias(NAME, 4), tmp_path / "mine.pth")
    assert bias_of(create_encoder(NAME, weights=tmp_path / "mine.pth")) == 4
    assert not tried


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dinov1-vit-b", "dinov1_vitb.pth"),
        ("dinov1-vit-b", "dino_vitbase16_pretrain.pth"),
        ("mocov3-vit-b", "vit-b-300ep.pth.tar"),
        ("mocov3-vit-l", "mocov3_vitl.pth"),
        ("jepa-vit-h", "ijepa_vith.pth"),
        ("jepa-vit-h", "IN1K-vit.h.14-300e.pth.tar"),
        ("mae-vit-l", "mae_vitl.pth"),
        ("mae-vit-l", "mae_pretrain_vit_large.pth"),
        ("clip-vit-L", "clip_vitl.pth"),
        ("dinov2reg-vit-b", "dinov2_vitb14_reg4_pretrain.pth"),
        ("dinov3-vit-b", "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth"),
    ],
)
def test_file_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, file: str) -> None:
    shrink(monkeypatch, name)
    no_download(monkeypatch)
    torch.save(published_state(name, random_state(name)), tmp_path / file)
    assert create_encoder(name, 32, 4, tmp_path)(images(32)).shape == (2, 16, 48)


def test_a_safetensors_file_of_the_same_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shrink(monkeypatch, "dinov1-vit-b")
    no_download(monkeypatch)
    save_file(state_with_bias("dinov1-vit-b", 5), tmp_path / "dinov1_vitb.safetensors")
    assert bias_of(create_encoder("dinov1-vit-b", weights=tmp_path)) == 5


HOSTED = ["dinov1-vit-b", "dinov2reg-vit-g", "dinov3-vit-s", "clip-vit-L", "mae-vit-l",
          "siglip2-vit-b"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTED)
def test_downloads_are_what_files_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub_cache: Path, name: str
) -> None:
    """Through timm's own download, from the hub's cache."""
    shrink(monkeypatch, name)
    state = random_state(name)
    save_published(name, state, tmp_path)
    if name == "clip-vit-L":
        state |= {"head.weight": torch.ones(768, 48), "head.bias": torch.ones(768)}
    put_into_cache(hub_cache, name, state)
    file, download = create_encoder(name, 512, weights=tmp_path), create_encoder(name, 512)
    x = images(512, 1)
    torch.testing.assert_close(download(x), file(x), rtol=1e-5, atol=1e-5)
    if "reg" not in name:  # where class token and position are added, here with other rounding
        assert download.fingerprint == file.fingerprint


@pytest.mark.parametrize("folder", [None, "", "ckpts"])
def test_without_a_file_it_is_downloaded_or_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str | None
) -> None:
    """No folder, one without the file, or none of that name, as `ckpts` at first."""
    tried = no_download(monkeypatch)
    weights = None if folder is None else tmp_path / folder
    with pytest.raises(RepaError) as error:
        create_encoder(NAME, weights=weights)
    assert str(error.value) == (
        f"no weights for {NAME}: download of timm/vit_small_patch14_dinov2.lvd142m failed (Cannot "
        f"reach the hub); put {OFFICIAL} into {weights or 'ckpts'}/ or name it with "
        "--encoder-weights"
    )
    assert tried == ["vit_small_patch14_dinov2.lvd142m"]


@pytest.mark.parametrize("size", "sbl")
def test_mocos_weights_are_not_hosted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: str
) -> None:
    tried = no_download(monkeypatch)
    with pytest.raises(RepaError) as error:
        create_encoder(f"mocov3-vit-{size}", weights=tmp_path)
    assert str(error.value) == (
        f"no weights for mocov3-vit-{size}, which are not downloaded: put mocov3_vit{size}.pth "
        f"into {tmp_path}/ or name it with --encoder-weights"
    )
    assert not tried


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_not_there_is_not_replaced_by_a_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, torch_hub: Path, name: str
) -> None:
    tried = no_download(monkeypatch)
    (torch_hub / OFFICIAL).write_bytes(b"")
    with pytest.raises(RepaError, match=rf"no weight file .*{name}"):
        create_encoder(NAME, weights=tmp_path / name)
    assert not tried


def test_an_older_timm_is_told_when_it_lacks_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str, allow_unregistered: bool) -> None:
        raise RuntimeError(f"Invalid pretrained tag for {name}.")

    monkeypatch.setattr(timm, "get_pretrained_cfg", unknown)
    with pytest.raises(
        RepaError, match=rf"^dinov3-vit-s needs a newer timm than {timm.__version__}: pip install"
    ):
        create_encoder("dinov3-vit-s")
    assert create_encoder("efficientnet-lite0", 32).dim == 112


# Several at once


def test_several_encoders_take_a_file_each_from_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ["clip-vit-L", "mocov3-vit-b", "dinov1-vit-b"]
    shrink(monkeypatch, *names)
    for i, name in enumerate(names):
        save_published(name, {k: v + i for k, v in random_state(name).items()}, tmp_path)
    encoders = create_encoders([*names, "efficientnet-lite0"], 32, 4, tmp_path)
    assert list(encoders) == [*names, "efficientnet-lite0"]
    for name in names:
        single = create_encoder(name, 32, 4, tmp_path)
        assert encoders[name].fingerprint == single.fingerprint
        torch.testing.assert_close(encoders[name](images(32)), single(images(32)))
    assert len({encoder.fingerprint for encoder in encoders.values()}) == 4


def test_one_file_for_several_encoders_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even where it fits both: it is of one of them."""
    shrink(monkeypatch, *ALIKE)
    state = random_state("dinov1-vit-b")
    torch.save(state, tmp_path / "w.pth")
    for name in ALIKE:
        create_encoder(name, 32, weights=tmp_path / "w.pth")
    with pytest.raises(RepaError, match=r"w.pth is one file for 2 encoders \(dinov1-vit-b, moco"):
        create_encoders(ALIKE, 32, weights=tmp_path / "w.pth")
    assert list(create_encoders(ALIKE[:1], 32, weights=tmp_path / "w.pth")) == ["dinov1-vit-b"]
