"""Folders of `from_pretrained`."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from checkpoints.files import NAME, assert_same, random_model, save
from repa.checkpoints import load_model
from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.translate import write_checkpoint
from repa.errors import RepaError
from repa.models import DiT, SiT


@pytest.fixture(scope="module")
def folder(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pretrained") / "model"
    write_checkpoint(open_checkpoint(released), path, "pretrained")
    return path


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.rand(2), torch.tensor([1, 3])


@torch.no_grad()
def test_it_is_the_averaged_model(folder: Path) -> None:
    model = SiT.from_pretrained(folder)
    assert not model.training
    x = inputs()
    assert torch.equal(model(*x), random_model(seed=1)(*x))
    assert torch.equal(load_model(folder)[0](*x), model(*x))


def test_it_holds_tensors_and_text_alone(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md", "config.json", "state.json",
        "model.safetensors", "heads.safetensors", "ema_heads.safetensors",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert (config["hidden_size"], config["depth"], config["num_heads"]) == (192, 6, 3)
    assert (config["patch_size"], config["input_size"], config["num_classes"]) == (4, 8, 3)


def test_state_comes_along(folder: Path, released: Path) -> None:
    assert load_model(folder)[1] == load_model(released)[1]
    with pytest.raises(RepaError, match="has only averaged weights"):
        load_model(folder, raw_weights=True)
    with pytest.raises(RepaError, match=r"--model SiT-B/2: .* holds SiT-Ti/4"):
        load_model(folder, model="SiT-B/2")


def test_card(folder: Path) -> None:
    header, body = (folder / "README.md").read_text().removeprefix("---\n").split("\n---\n")
    meta = yaml.safe_load(header)
    assert meta["library_name"] == "repa"
    assert meta["pipeline_tag"] == "unconditional-image-generation"
    assert {"repa", "diffusion", "flow-matching", "image-generation", "sit"} <= set(meta["tags"])
    assert "license" not in meta
    for text in (
        "# SiT-Ti/4", "64 x 64 pixels in 3 classes, after 7 training steps",
        "aligned with dinov2-vit-b", "repa sample --ckpt", "SiT.from_pretrained",
        "| path type | cosine |", "| encoder depth | 2 |", "| num classes | 3 |",
        "Representation Alignment for Generation",
    ):  # fmt: skip
        assert text in body
    assert "exps" not in body, "a path of the machine"


def test_its_python_runs(folder: Path) -> None:
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    scope: dict = {}
    exec(code.replace("FOLDER_OR_REPOSITORY", str(folder)), scope)
    assert scope["prediction"].shape == (1, 4, 8, 8)


def test_a_model_without_alignment_or_options_has_a_card(tmp_path: Path) -> None:
    path = save(random_model().state_dict(), tmp_path / "a.pt")
    write_checkpoint(open_checkpoint(path), tmp_path / "b", "pretrained")
    body = (tmp_path / "b" / "README.md").read_text()
    assert "after an unknown number of training steps. The weights" in body


def test_hub_calls_are_not_needed(folder: Path) -> None:
    code = f"from repa.models import SiT; print(SiT.from_pretrained({str(folder)!r}).depth)"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.split()[-1] == b"6", done.stderr


@pytest.mark.parametrize("name", [NAME, "DiT-Ti/4"])
def test_what_save_pretrained_writes_alone_is_a_checkpoint(tmp_path: Path, name: str) -> None:
    model = random_model(name, class_dropout_prob=0.2)
    model.save_pretrained(tmp_path / "a")
    loaded, state = load_model(tmp_path / "a")
    assert type(loaded) is type(model)
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))
    assert (state.model, loaded.class_dropout_prob) == (name, 0.2)


def test_models_of_any_size(tmp_path: Path) -> None:
    arguments = {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    for model in (SiT(**arguments, qk_norm=True), DiT(**arguments, learn_sigma=False)):
        model.save_pretrained(tmp_path / "a")
        loaded = type(model).from_pretrained(tmp_path / "a")
        assert_same(dict(loaded.state_dict()), dict(model.state_dict()))
        assert loaded.out_channels == 4
    with pytest.raises(RepaError, match="2 blocks of width 32 .* are no DiT with a name"):
        load_model(tmp_path / "a")


class TestRefused:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        random_model().save_pretrained(tmp_path / "a")
        return tmp_path / "a"

    def test_weights_that_lack_a_tensor(self, saved: Path) -> None:
        config = json.loads((saved / "config.json").read_text())
        (saved / "config.json").write_text(json.dumps(config | {"depth": 7}))
        with pytest.raises(RepaError, match=r"does not fit.*blocks\.6"):
            SiT.from_pretrained(saved)

    def test_another_family(self, saved: Path) -> None:
        with pytest.raises(RepaError, match=r"does not fit.*final_layer"):
            DiT.from_pretrained(saved)

    def test_a_pickle_in_their_place(self, saved: Path, tmp_path: Path) -> None:
        (saved / "model.safetensors").unlink()
        torch.save(random_model().state_dict(), saved / "pytorch_model.bin")
        with pytest.raises(RepaError, match=r"no weight file .*model\.safetensors"):
            SiT.from_pretrained(saved)
        with pytest.raises(RepaError, match=r"a has no model\.safetensors"):
            load_model(saved)
        with pytest.raises(RepaError, match=r"pickled weights are not read"):
            SiT._load_as_pickle(random_model(), "pytorch_model.bin", "cpu", True)

    @pytest.mark.parametrize("text", ["", "{", "[]"])
    def test_a_broken_configuration(self, saved: Path, text: str) -> None:
        (saved / "config.json").write_text(text)
        with pytest.raises(RepaError, match=r"damaged checkpoint: .*config\.json"):
            load_model(saved)


def test_copies_keep_their_configuration(tmp_path: Path) -> None:
    """Averaged weights are a deep copy."""
    twin = copy.deepcopy(random_model())
    twin.save_pretrained(tmp_path / "a")
    assert SiT.from_pretrained(tmp_path / "a").num_classes == 3
