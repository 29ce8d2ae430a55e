"""Files that are not of a model that is known here, and options of another kind."""

from pathlib import Path

import pytest
import torch

from checkpoints.files import ARGS, NAME, convert, random_model, released_model, save
from repa.checkpoints import CheckpointState, import_released, load_model
from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.load import objective_of
from repa.checkpoints.write_released import released_content
from repa.errors import RepaError
from repa.models import SiT


def test_another_model_than_asked_for(released: Path) -> None:
    with pytest.raises(RepaError, match=r"--model SiT-B/2: .*0000007.pt holds SiT-Ti/4"):
        load_model(released, model="SiT-B/2")
    with pytest.raises(RepaError, match=r"--model DiT-Ti/4: .* was trained as SiT-Ti/4"):
        load_model(released, model="DiT-Ti/4")
    with pytest.raises(RepaError, match=r"unknown model 'SiT-Z/9'"):
        load_model(released, model="SiT-Z/9")
    assert load_model(released, model="SiT-Ti/4")[1].model == NAME


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.ones(2)}, r"is no SiT, DiT or MMDiT: it has no x_embedder.proj.weight"),
        ({"ema": {"w": 3}}, r"is no SiT, DiT or MMDiT: 'w' is a int, not a tensor"),
        ({3: torch.ones(2)}, r"is no SiT, DiT or MMDiT: the name 3 is not a string"),
        ({}, r"is no SiT, DiT or MMDiT: it has no x_embedder"),
    ],
)
def test_something_else(tmp_path: Path, content: dict, message: str) -> None:
    with pytest.raises(RepaError, match=message):
        load_model(save(content, tmp_path / "a.pt"))


def test_a_size_without_a_name(tmp_path: Path) -> None:
    state = released_model().state_dict()
    del_last = {k: v for k, v in state.items() if not k.startswith("blocks.5.")}
    message = r"a.pt: 5 blocks of width 192 with patches of 4 are no SiT with a name.*Ti 6 x 192"
    with pytest.raises(RepaError, match=message):
        load_model(save(del_last, tmp_path / "a.pt"))


def test_a_named_size_with_other_heads(tmp_path: Path) -> None:
    sizes = {"patch_size": 4, "depth": 6, "hidden_size": 192, "num_classes": 3}
    state = SiT(input_size=8, num_heads=6, qk_norm=True, **sizes).state_dict()
    with pytest.raises(RepaError, match=r"6 blocks of width 192 .* are no SiT with a name"):
        load_model(save(state, tmp_path / "a.pt"))


def test_channels_of_no_autoencoder(tmp_path: Path) -> None:
    state = random_model(in_channels=5).state_dict()
    with pytest.raises(RepaError, match=r"a.pt: 5 channels are neither SD-VAE's"):
        load_model(save(state, tmp_path / "a.pt"))


def test_a_missing_tensor(tmp_path: Path) -> None:
    state = released_model().state_dict()
    del state["blocks.3.attn.proj.bias"]
    with pytest.raises(RepaError, match=r"a.pt does not fit.*blocks.3.attn.proj.bias"):
        load_model(save(state, tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("opt", "message"),
    [
        ({"state": {}, "param_groups": [{"params": [0, 1]}]}, "counts 2 parameters, its model"),
        ({"state": {}, "param_groups": []}, "not the state of one AdamW"),
        ({}, "not the state of one AdamW"),
        (3, "not the state of one AdamW"),
        ({"state": {0: 3}, "param_groups": [{"params": [0]}]}, "not the state of one AdamW"),
        (
            {"state": {0: {"step": "x"}}, "param_groups": [{"params": [0]}]},
            "not the state of one AdamW",
        ),
        ({"state": {}, "param_groups": [{"params": [[0]]}]}, "not the state of one AdamW"),
        ({"state": {}, "param_groups": ["x"]}, "not the state of one AdamW"),
    ],
)
def test_another_optimizer(tmp_path: Path, opt: dict, message: str) -> None:
    content = {"model": released_model().state_dict(), "opt": opt, "args": ARGS}
    file = save(content, tmp_path / "a.pt")
    with pytest.raises(RepaError, match=message):
        import_released(file, tmp_path / "ours")
    load_model(file, raw_weights=True)  # whoever samples does not need it


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"path_type": "weird"}, "path_type is 'weird', expected linear or cosine"),
        ({"path_type": ["linear"]}, r"path_type is \['linear'\], expected linear or cosine"),
        ({"path_type": 3}, "path_type is 3, expected linear or cosine"),
        ({"legacy": True, "cfg_prob": "abc"}, "cfg_prob is 'abc', expected 0 to 1"),
        ({"legacy": True, "cfg_prob": 7}, "cfg_prob is 7, expected 0 to 1"),
    ],
)
def test_options_of_another_kind(tmp_path: Path, args: dict, message: str) -> None:
    content = {"ema": released_model().state_dict(), "args": ARGS | args}
    with pytest.raises(RepaError, match=f"a.pt: its .*{message}"):
        load_model(save(content, tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("x_embedder.proj.weight", (192, 4, 0, 0)),
        ("pos_embed", (1, 0, 192)),
        ("y_embedder.embedding_table.weight", (0, 192)),
    ],
)
def test_a_size_of_zero(tmp_path: Path, name: str, shape: tuple) -> None:
    state = released_model().state_dict() | {name: torch.zeros(shape)}
    with pytest.raises(RepaError, match=rf"a.pt is no SiT, DiT or MMDiT: it has no {name}"):
        load_model(save(state, tmp_path / "a.pt"))


def test_weights_that_are_a_list(tmp_path: Path) -> None:
    content = {"ema": released_model().state_dict(), "model": [3]}
    with pytest.raises(RepaError, match=r"is no SiT, DiT or MMDiT: its weights are a list"):
        load_model(save(content, tmp_path / "a.pt"))


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_values(tmp_path: Path, kind: str) -> None:
    name = "blocks.0.attn.proj.weight"
    state = released_model().state_dict()
    state[name] = state[name].to_sparse() if kind == "sparse" else state[name].to("meta")
    with pytest.raises(RepaError, match=rf"'{name}' is sparse or has no values"):
        load_model(save(state, tmp_path / "a.pt"))


def test_only_raw_weights(tmp_path: Path, content: dict) -> None:
    path = save({"model": content["model"], "args": ARGS}, tmp_path / "a.pt")
    with pytest.raises(RepaError, match=r"no averaged weights \(--raw-weights takes"):
        load_model(path)
    load_model(path, raw_weights=True)


def test_another_model_than_asked_for_in_a_file_of_ours(tmp_path: Path, ours: Path) -> None:
    file = convert(ours, tmp_path / "a.pt", "released")
    with pytest.raises(RepaError, match=r"^--model SiT-B/2: .*a.pt holds SiT-Ti/4$"):
        load_model(file, model="SiT-B/2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"options": {"prediction": "x"}},
            r"predicts x \(--prediction\), and the release samples velocities alone$",
        ),
        (
            {"model": "DiT-Ti/4", "model_arguments": {"qk_norm": True}},
            r"DiT's scripts have no --qk-norm, which it was trained with$",
        ),
    ],
)
def test_what_the_release_does_not_have_is_not_written_for_it(
    tmp_path: Path, ours: Path, changes: dict, message: str
) -> None:
    checkpoint = open_checkpoint(ours)
    state = checkpoint.state.model_dump()
    for key, value in changes.items():
        state[key] = state[key] | value if isinstance(value, dict) else value
    with pytest.raises(RepaError, match=message):
        released_content(CheckpointState(**state), {}, None, tmp_path / "a.pt")


def test_another_process_than_the_checkpoints(ours: Path) -> None:
    model, state = load_model(ours)
    message = r"^--path-type cosine: the checkpoint was trained with linear$"
    with pytest.raises(RepaError, match=message):
        objective_of(model, state, path_type="cosine")
    diffusion = random_model("DiT-Ti/4")
    with pytest.raises(RepaError, match=r"^--prediction x: DiT-Ti/4 has no such choice$"):
        objective_of(diffusion, state.model_copy(update={"model": "DiT-Ti/4"}), prediction="x")
