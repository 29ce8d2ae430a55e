"""Forms and faults of weight files."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from encoders.published import images, published_state, save_published, shrink, timm_state
from repa.encoders import create_encoder
from repa.errors import RepaError

State = dict[str, Tensor]
FAMILIES = [
    "dinov1-vit-b",
    "dinov2-vit-s",
    "dinov2-vit-g",
    "dinov2reg-vit-s",
    "dinov3-vit-s",
    "mocov3-vit-b",
    "clip-vit-L",
    "jepa-vit-h",
    "siglip2-vit-b",
]


def tokens_of(name: str, contents: Any, file: Path) -> Tensor:
    torch.save(contents, file)
    return create_encoder(name, 32, weights=file)(images(32))


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


# Files that hold the same in another form

FORMS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "DINO's training state": (
        "dinov1-vit-b",
        lambda state: {
            "student": {"module.backbone.cls_token": torch.ones(1)},
            "teacher": prefixed(state, "backbone.") | {"head.mlp.0.weight": torch.ones(3, 3)},
            "args": argparse.Namespace(arch="vit_base"),
            "epoch": 100,
        },
    ),
    "DINO under state_dict": ("dinov1-vit-b", lambda state: {"state_dict": state}),
    "MoCo, bare": ("mocov3-vit-s", lambda file: file["state_dict"]),
    "MoCo without prefix": (
        "mocov3-vit-l",
        lambda file: {
            key.removeprefix("module.base_encoder."): value
            for key, value in file["state_dict"].items()
            if key.startswith("module.base_encoder.")
        },
    ),
    "I-JEPA, bare": ("jepa-vit-h", lambda file: file["encoder"]),
    "I-JEPA without prefix": (
        "jepa-vit-h",
        lambda file: {k.removeprefix("module."): v for k, v in file["encoder"].items()},
    ),
    "MAE, bare": ("mae-vit-l", lambda file: file["model"]),
    "MAE without decoder": (
        "mae-vit-l",
        lambda file: {
            "model": {
                key: value
                for key, value in file["model"].items()
                if not key.startswith(("decoder", "mask"))
            }
        },
    ),
    "CLIP's visual part": (
        "clip-vit-L",
        lambda file: {
            key.removeprefix("visual."): value
            for key, value in file.items()
            if key.startswith("visual.")
        },
    ),
    "CLIP without projection": (
        "clip-vit-L",
        lambda file: {key: value for key, value in file.items() if key != "visual.proj"},
    ),
}


@pytest.mark.parametrize(("name", "change"), FORMS.values(), ids=FORMS)
def test_wrapped_and_bare_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, change: Callable[[Any], Any]
) -> None:
    shrink(monkeypatch, name)
    published = published_state(name, timm_state(name))
    expected = tokens_of(name, published, tmp_path / "as_published.pth")
    tokens = tokens_of(name, change(published), tmp_path / "changed.pth")
    torch.testing.assert_close(tokens, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "name",
    [
        "dinov2-vit-g",
        "dinov2reg-vit-b",
        "dinov3-vit-s",
        "clip-vit-L",
        "jepa-vit-h",
        "siglip2-vit-b",
    ],
)
def test_safetensors_in_timms_naming(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    shrink(monkeypatch, name)
    state = timm_state(name)
    file = save_published(name, state, tmp_path)
    expected = create_encoder(name, 32, weights=file)(images(32))
    if name == "clip-vit-L":
        state |= {"head.weight": torch.ones(7, 48), "head.bias": torch.ones(7)}
    save_file(state, tmp_path / "mine.safetensors")
    tokens = create_encoder(name, 32, weights=tmp_path / "mine.safetensors")(images(32))
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_openais_archive_is_refused_with_the_conversion(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the conversion that the message tells makes a file that loads."""
    shrink(monkeypatch, "clip-vit-L")
    published = published_state("clip-vit-L", timm_state("clip-vit-L"))
    expected = tokens_of("clip-vit-L", published, tmp_path / "published.pth")
    archive = tmp_path / "ViT-L-14.pt"
    make_torchscript_archive(published, archive)
    with pytest.raises(RepaError, match=r"ViT-L-14.pt is a TorchScript archive") as error:
        create_encoder("clip-vit-L", 32, weights=archive)
    assert "\n" not in str(error.value)
    monkeypatch.chdir(tmp_path)
    exec(str(error.value).split('"')[1])  # what stands in `python -c "..."`
    tokens = create_encoder("clip-vit-L", 32, weights=tmp_path / "weights.pth")(images(32))
    torch.testing.assert_close(tokens, expected, rtol=0, atol=0)


def make_torchscript_archive(state: State, file: Path) -> None:
    root = nn.Module()
    for key, value in state.items():
        *path, leaf = key.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_buffer(leaf, value)
    torch.jit.script(root).save(file)


# Files that do not fit


def changed(change: Callable[[State], State]) -> Callable[[Any], Any]:
    """A change inside MoCo's wrapping."""
    return lambda file: {"state_dict": change(file["state_dict"])}


ENCODER = "module.base_encoder."
WRONG = {
    "a key less": (
        changed(lambda s: {k: v for k, v in s.items() if "blocks.1.mlp.fc1.weight" not in k}),
        "Missing key.*blocks.1.mlp.fc1.weight",
    ),
    "a key more": (
        changed(lambda s: s | {ENCODER + "blocks.1.ls1.gamma": torch.ones(48)}),
        "Unexpected key.*blocks.1.ls1.gamma",
    ),
    "a block more": (
        changed(lambda s: s | {ENCODER + "blocks.2.norm1.weight": torch.ones(48)}),
        "Unexpected key.*blocks.2.norm1.weight",
    ),
    "a wrong shape": (
        changed(lambda s: s | {ENCODER + "norm.bias": torch.zeros(49)}),
        "size mismatch for norm.bias",
    ),
    "other patches": (
        changed(lambda s: s | {ENCODER + "patch_embed.proj.weight": torch.zeros(48, 3, 8, 8)}),
        r"patch_embed.proj.weight is \(48, 3, 8, 8\), expected \(48, 3, 16, 16\)",
    ),
    "with registers": (
        changed(lambda s: s | {ENCODER + "register_tokens": torch.zeros(1, 4, 48)}),
        "Unexpected key.*register_tokens",
    ),
    "positions missing": (
        changed(lambda s: {k: v for k, v in s.items() if not k.endswith("pos_embed")}),
        "Missing key.*pos_embed",
    ),
    "positions of no square": (
        changed(lambda s: s | {ENCODER + "pos_embed": torch.zeros(1, 7, 48)}),
        "",
    ),
    "positions of no class token": (
        changed(lambda s: s | {ENCODER + "pos_embed": torch.zeros(1, 196, 48)}),
        "",
    ),
    "no tensor": (
        changed(lambda s: s | {ENCODER + "pos_embed": 3}),  # type: ignore[dict-item]
        "module.base_encoder.pos_embed is a int, not a tensor",
    ),
    "names that are numbers": (lambda file: {0: torch.ones(1)}, "0 is a Tensor, not a tensor"),
    "other contents": (lambda file: {"model": 5}, "model is a int, not a tensor"),
    "nothing": (lambda file: {}, "Missing key"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_file_that_does_not_fit_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Any, message: str
) -> None:
    shrink(monkeypatch, "mocov3-vit-s")
    published = published_state("mocov3-vit-s", timm_state("mocov3-vit-s"))
    torch.save(change(published), tmp_path / "w.pth")
    with pytest.raises(RepaError, match=rf"w.pth does not fit the network: .*{message}") as error:
        create_encoder("mocov3-vit-s", weights=tmp_path / "w.pth")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_another_family_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Even where all are of one size."""
    shrink(monkeypatch, *FAMILIES)
    files = {other: save_published(other, timm_state(other), tmp_path) for other in FAMILIES}
    for other in FAMILIES:
        # A bare file of DINO could be a bare one of MoCo v3.
        if other != name and (name, other) != ("mocov3-vit-b", "dinov1-vit-b"):
            with pytest.raises(RepaError, match=f"{files[other].name} does not fit the network"):
                create_encoder(name, 256, weights=files[other])


def test_a_truncated_file_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shrink(monkeypatch, "mae-vit-l")
    file = save_published("mae-vit-l", timm_state("mae-vit-l"), tmp_path)
    file.write_bytes(file.read_bytes()[:100_000])
    for weights in (file, tmp_path):
        with pytest.raises(RepaError, match=r"cannot read weights from .*mae_vitl.pth: [^\n]*$"):
            create_encoder("mae-vit-l", weights=weights)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was-run"),)

    for place in ({"cls_token": Poison()}, {"state_dict": {}, "args": Poison()}):
        torch.save(place, tmp_path / "w.pth")
        with pytest.raises(RepaError, match="cannot read weights"):
            create_encoder("dinov2-vit-s", weights=tmp_path / "w.pth")
    assert not (tmp_path / "was-run").exists()


def test_the_network_does_not_depend_on_the_file_any_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shrink(monkeypatch, "dinov1-vit-b")
    file = save_published("dinov1-vit-b", timm_state("dinov1-vit-b"), tmp_path)
    encoder = create_encoder("dinov1-vit-b", 32, weights=file)
    tokens = encoder(images(32))
    size = file.stat().st_size
    with file.open("r+b") as stream:  # in place, which would show through a mapping
        stream.write(bytes(size))
    torch.testing.assert_close(encoder(images(32)), tokens, rtol=0, atol=0)
