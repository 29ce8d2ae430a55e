"""DINOv2's files and their faults; tests/golden checks the numbers."""

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from repa.encoders import create_encoder
from repa.errors import RepaError

TIMM_NAME = "vit_small_patch14_dinov2.lvd142m"
OFFICIAL_NAME = "dinov2_vits14_pretrain.pth"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Random weights under the names and shapes of the official file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(TIMM_NAME, img_size=518, num_classes=0)
    state = network.state_dict()
    assert state["pos_embed"].shape == (1, 37 * 37 + 1, 384)
    return state | {"mask_token": torch.zeros(1, 384)}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, state: State) -> Path:
    path = tmp_path_factory.mktemp("ckpts") / OFFICIAL_NAME
    torch.save(state, path)
    return path


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    create_model = timm.create_model

    def offline(*arguments: Any, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise ConnectionError("Cannot reach the hub\nTraceback:\n...")
        return create_model(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", offline)


def images(resolution: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, resolution, resolution)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_a_file_a_folder_and_safetensors_give_the_same_network(
    tmp_path: Path, file: Path, state: State
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    for path in (file, file.parent, tmp_path / "w.safetensors"):
        encoder = create_encoder("dinov2-vit-s", 256, weights=path)
        loaded = encoder.network.state_dict()
        assert loaded.keys() == state.keys() - {"mask_token"}
        for key in loaded.keys() - {"pos_embed"}:  # which is resampled
            torch.testing.assert_close(loaded[key], state[key], rtol=0, atol=0)
        assert loaded["pos_embed"].shape == (1, 257, 384)


def test_it_is_frozen_and_gives_the_grid_asked_for(file: Path) -> None:
    encoder = create_encoder("dinov2-vit-s", 64, grid_size=4, weights=file)
    assert (encoder.name, encoder.dim) == ("dinov2-vit-s", 384)
    assert (encoder.input_size, encoder.grid_size) == (224, 4)
    around = torch.nn.ModuleList([encoder]).train()
    assert around.training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    tokens = encoder(images(64))
    assert tokens.shape == (2, 16, 384)
    assert not tokens.requires_grad


def test_large_images_are_looked_at_more_finely(file: Path) -> None:
    encoder = create_encoder("dinov2-vit-s", 512, weights=file)
    assert (encoder.input_size, encoder.grid_size) == (448, 32)
    encoder.network.blocks = encoder.network.blocks[:1]  # enough for the shape
    assert encoder(images(512)[:1]).shape == (1, 1024, 384)


def wrong_shape(state: State) -> dict:
    return state | {"norm.bias": torch.zeros(768)}


def missing_key(state: State) -> dict:
    return {key: value for key, value in state.items() if key != "blocks.7.mlp.fc1.weight"}


WRONG = {
    "a key less": (missing_key, "does not fit the network: Missing key.*blocks.7.mlp.fc1.weight"),
    "a wrong shape": (wrong_shape, "does not fit the network: size mismatch for norm.bias"),
    "with registers": (
        lambda state: state | {"register_tokens": torch.zeros(1, 4, 384)},
        "does not fit the network",
    ),
    "positions missing": (
        lambda state: {k: v for k, v in state.items() if k != "pos_embed"},
        "does not fit the network: Missing key.*pos_embed",
    ),
    "positions of no square": (
        lambda state: state | {"pos_embed": torch.zeros(1, 7, 384)},
        "does not fit the network",
    ),
    "positions of no shape": (lambda state: state | {"pos_embed": 3}, "does not fit the network"),
    "other contents": (lambda state: {"model": 5}, "does not fit the network"),
    "nothing": (lambda state: {}, "does not fit the network"),
    "a list": (lambda state: list(state), "holds a list, not a state dict"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_file_that_does_not_fit_is_one_clear_line(
    tmp_path: Path, state: State, change: Any, message: str
) -> None:
    # Views of one zero: the same shapes, and a small file.
    small = {key: torch.zeros(1).expand(value.shape) for key, value in state.items()}
    torch.save(change(small), tmp_path / "w.pth")
    with pytest.raises(RepaError, match=rf"w.pth {message}") as error:
        create_encoder("dinov2-vit-s", weights=tmp_path / "w.pth")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_truncated_file_is_one_clear_line(tmp_path: Path, file: Path) -> None:
    path = tmp_path / OFFICIAL_NAME
    path.write_bytes(file.read_bytes()[:1_000_000])
    for weights in (path, tmp_path):
        with pytest.raises(
            RepaError, match=rf"cannot read weights from .*{OFFICIAL_NAME}: [^\n]*$"
        ):
            create_encoder("dinov2-vit-s", weights=weights)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was-run"),)

    torch.save({"cls_token": Poison()}, tmp_path / "w.pth")
    with pytest.raises(RepaError, match="cannot read weights"):
        create_encoder("dinov2-vit-s", weights=tmp_path / "w.pth")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("name", [OFFICIAL_NAME, "my.safetensors"])
def test_a_file_that_is_not_there_is_not_replaced_by_a_download(
    tmp_path: Path, no_download: None, name: str
) -> None:
    with pytest.raises(RepaError, match=rf"no weight file .*{name}"):
        create_encoder("dinov2-vit-s", weights=tmp_path / name)


@pytest.mark.parametrize("folder", [None, "", "ckpts"])
def test_without_a_file_it_is_downloaded_or_one_clear_line(
    tmp_path: Path, no_download: None, folder: str | None
) -> None:
    """No folder, one without the file, or none of that name, as `ckpts` at first."""
    weights = None if folder is None else tmp_path / folder
    with pytest.raises(RepaError) as error:
        create_encoder("dinov2-vit-s", weights=weights)
    assert str(error.value) == (
        "no weights for dinov2-vit-s: download failed (Cannot reach the hub); put the official "
        f"file {OFFICIAL_NAME} into ckpts/ or name it with --encoder-weights"
    )
