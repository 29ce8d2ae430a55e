"""Checkpoints from anyone: a model, or one line; never a pickle that runs."""

import argparse
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from reliability.mutations import (
    bounded_memory,
    mutated,
    mutated_json,
    only_documented,
    unchanged,
)
from repa.checkpoints import load_model, read_state
from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.translate import write_checkpoint
from repa.errors import RepaError
from repa.models import create_model
from repa.models.transformer import SIZES
from repa.text.folder import load_network
from repa.weights import read_weights

pytestmark = pytest.mark.promise("5 untrusted files")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of a few thousand weights has a name."""
    monkeypatch.setitem(SIZES, "Ti", (1, 8, 2))


@pytest.fixture
def content() -> dict[str, Any]:
    """A training checkpoint as the release writes it."""
    model = create_model("SiT-Ti/2", input_size=4, num_classes=3)
    state = {"pos_embed": model.pos_embed, **model.state_dict()}
    moments = {name: torch.zeros(2) for name in ("exp_avg", "exp_avg_sq")}
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "params": list(range(len(state)))}
    return {
        "model": state,
        "ema": state,
        "opt": {"state": {1: moments}, "param_groups": [group]},
        "args": argparse.Namespace(model="SiT-Ti/2", num_classes=3, encoder_depth=1, resolution=32),
        "steps": 7,
    }


@pytest.fixture
def file(tmp_path: Path, content: dict[str, Any]) -> Path:
    (tmp_path / "given").mkdir()
    torch.save(content, tmp_path / "given/1.pt")
    return tmp_path / "given/1.pt"


@pytest.fixture
def folder(tmp_path: Path, file: Path) -> Path:
    """The same, without its optimizer, as a checkpoint of ours."""
    checkpoint = open_checkpoint(file, with_optimizer=False)
    write_checkpoint(checkpoint, tmp_path / "ours", "repa")
    return tmp_path / "ours"


@given(data=st.data())
@pytest.mark.parametrize("name", ["state.json", "ema.safetensors"])
def test_any_folder_is_a_model_or_one_line(
    name: str, data: st.DataObject, folder: Path, survived: Callable[[], None]
) -> None:
    original = (folder / name).read_bytes()
    changes = mutated(original) | st.binary(max_size=50)
    if name == "state.json":
        changes |= mutated_json(json.loads(original))
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    (folder / name).write_bytes(data.draw(changes))
    with unchanged(folder.parent):
        with only_documented():
            read_state(folder)
        with only_documented():
            load_model(folder)
    (folder / name).write_bytes(original)
    survived()


@given(data=st.data())
def test_any_file_is_a_model_or_one_line(
    data: st.DataObject, file: Path, survived: Callable[[], None]
) -> None:
    original = file.read_bytes()
    file.write_bytes(data.draw(mutated(original) | st.binary(max_size=50)))
    with unchanged(file.parent):
        with only_documented():
            load_model(file)
        with only_documented():
            open_checkpoint(file)
    file.write_bytes(original)
    survived()


@given(data=st.data())
def test_any_config_is_a_model_or_one_line(
    data: st.DataObject, tmp_path: Path, folder: Path, survived: Callable[[], None]
) -> None:
    given = tmp_path / "pretrained"
    if not given.exists():
        write_checkpoint(open_checkpoint(folder), given, "pretrained")
        (given / "state.json").unlink()
    original = (given / "config.json").read_bytes()
    changes = mutated_json(json.loads(original)) | mutated(original)
    (given / "config.json").write_bytes(data.draw(changes))
    with unchanged(tmp_path), only_documented():
        load_model(given)
    (given / "config.json").write_bytes(original)
    survived()


def nested(levels: int) -> list:
    inner: list = []
    for _ in range(levels):
        inner = [inner, inner]
    return inner


def looped() -> list:
    inner: list = []
    inner.append(inner)
    return inner


ATTACKS: dict[str, tuple[str, Any, str]] = {
    "lists of lists": ("args", argparse.Namespace(a=nested(90)), "its lists hold each other"),
    "a list in itself": ("args", argparse.Namespace(a=looped()), "its lists hold each other"),
    "a tensor of petabytes": ("ema", {"x": torch.zeros(1).expand(10**15)}, "does not fit into"),
}


@pytest.mark.parametrize(("key", "value", "message"), ATTACKS.values(), ids=ATTACKS)
def test_a_file_larger_than_it_looks_is_refused(
    key: str, value: Any, message: str, content: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(content | {key: value}, tmp_path / "1.pt")
    with pytest.raises(RepaError, match=message), bounded_memory(1 << 29):
        load_model(tmp_path / "1.pt")


@pytest.mark.parametrize("steps", ["9" * 5000, 10**400, float("inf"), -1, [1], {}])
def test_steps_that_are_none_count_as_none(
    steps: Any, content: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(content | {"steps": steps}, tmp_path / "x.pt")
    assert load_model(tmp_path / "x.pt")[1].step == 0


def test_a_state_cannot_ask_for_a_model_of_terabytes(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_bytes())
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    for change in ({"num_classes": 10**9}, {"input_size": 40_000}):
        arguments = state["model_arguments"] | change
        (folder / "state.json").write_text(json.dumps(state | {"model_arguments": arguments}))
        with pytest.raises(RepaError, match="damaged checkpoint"), bounded_memory(1 << 28):
            load_model(folder)


class Opens:
    """What a pickle would run."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("form", ["zip", "before 1.6", "pickle"])
def test_no_pickle_is_run(form: str, content: dict[str, Any], tmp_path: Path) -> None:
    content["args"] = Opens(tmp_path / "run")
    path = tmp_path / "1.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps(content["args"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    for read in (read_weights, load_model):
        with pytest.raises(RepaError, match="was not|broken|no PyTorch"):
            read(path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/x.safetensors", "x.bin", 1])
def test_an_index_names_no_weights_elsewhere(name: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "secret.safetensors")
    save_file({"x": torch.zeros(1)}, folder / "model-1.safetensors")
    (folder / "config.json").write_text("{}")
    index = {"weight_map": {"x": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RepaError, match="index.json (names|is damaged)"):
        load_network(None, folder)
