"""Checkpoints whose parts do not go together, and bytes that have changed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints.files import NAME, convert, save, training_checkpoint
from repa.checkpoints import import_released, load_model
from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.checksums import write_checksums
from repa.checkpoints.folder import check_checkpoint
from repa.checkpoints.translate import write_checkpoint
from repa.errors import RepaError

FORMATS = [("repa", "a"), ("released", "a.pt"), ("pretrained", "a")]
TENSOR = "blocks.3.attn.proj.bias"


def change_state(folder: Path, **changes) -> Path:
    state = json.loads((folder / "state.json").read_text())
    for key, value in changes.items():
        state[key] = state[key] | value if isinstance(value, dict) else value
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def change(folder: Path, part: str, update: Callable[[dict], object]) -> Path:
    path = folder / f"{part}.safetensors"
    tensors = load_file(path)
    update(tensors)
    save_file(tensors, path)
    write_checksums(folder)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": -5},
        {"num_classes": "3"},
        {"input_size": -8},
        {"input_size": "8"},
        {"input_size": 9},
        {"in_channels": None},
        {"mlp_ratio": float("inf")},
        {"class_dropout_prob": "x"},
        {"color": 3},
    ],
)
def test_arguments_that_make_no_model(tmp_path: Path, ours: Path, arguments: dict) -> None:
    change_state(ours, model_arguments=arguments)
    with pytest.raises(RepaError, match=r"damaged checkpoint .*0000009: no model: ") as error:
        load_model(ours)
    assert "\n" not in str(error.value)
    for to, dest in FORMATS:
        with pytest.raises(RepaError, match=r"damaged checkpoint .*0000009: no model: "):
            write_checkpoint(open_checkpoint(ours), tmp_path / dest, to)


@pytest.mark.parametrize("path_type", ["weird", ["linear"], 3])
def test_a_path_that_is_none(ours: Path, path_type: object) -> None:
    change_state(ours, options={"path_type": path_type})
    message = r"damaged checkpoint .*state.json: options: path_type is .*, expected linear or"
    with pytest.raises(RepaError, match=message):
        load_model(ours)


def test_no_path_is_the_linear_one(ours: Path) -> None:
    change_state(ours, options={"path_type": None})
    assert load_model(ours)[1].options["path_type"] == "linear"


@pytest.mark.parametrize(("to", "dest"), FORMATS)
@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda t: t.pop(TENSOR), f"{TENSOR} is missing"),
        (lambda t: t.update(extra=torch.ones(1)), "extra is unknown"),
        (lambda t: t.update({TENSOR: torch.ones(3)}), f"{TENSOR} is 3, not 192"),
        (
            lambda t: t.update({TENSOR: torch.ones(192, dtype=torch.int64)}),
            f"{TENSOR} is of torch.int64, not of floating-point numbers",
        ),
    ],
)
def test_weights_of_something_else_are_not_written(
    tmp_path: Path, ours: Path, to: str, dest: str, update: Callable, message: str
) -> None:
    change(ours, "ema", update)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RepaError, match=f"0000009 does not fit {NAME}: in ema, {message}$"):
        write_checkpoint(open_checkpoint(ours), tmp_path / dest, to)
    assert sorted(tmp_path.rglob("*")) == before


def test_of_many_problems_two_are_named(tmp_path: Path, ours: Path) -> None:
    (ours / "heads.safetensors").replace(ours / "ema.safetensors")
    write_checksums(ours)
    message = r"in ema, pos_embed is missing; x_embedder\S+ is missing; and \d+ more$"
    with pytest.raises(RepaError, match=message):
        write_checkpoint(open_checkpoint(ours), tmp_path / "a", "repa")


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda t: t.update({"model.w.step": torch.ones(1)}), "model.w.step is of no weight"),
        (
            lambda t: t.update({f"model.{TENSOR}.exp_avg": torch.ones(3)}),
            f"model.{TENSOR}.exp_avg is 3, not 192",
        ),
    ],
)
def test_an_optimizer_of_something_else(tmp_path: Path, ours: Path, update, message) -> None:
    change(ours, "optimizer", update)
    for to, dest in FORMATS[:2]:
        with pytest.raises(RepaError, match=f"in optimizer, {message}"):
            write_checkpoint(open_checkpoint(ours), tmp_path / dest, to)


def test_parts_without_their_weights(tmp_path: Path, ours: Path) -> None:
    (ours / "model.safetensors").unlink()
    checkpoint = r"damaged checkpoint: .*0000009"
    for to, dest in FORMATS[:2]:
        with pytest.raises(RepaError, match=f"{checkpoint} has an optimizer without its weights"):
            write_checkpoint(open_checkpoint(ours), tmp_path / dest, to)
    (ours / "optimizer.safetensors").unlink()
    (ours / "ema.safetensors").unlink()
    for to, dest in FORMATS[:2]:
        with pytest.raises(RepaError, match=f"{checkpoint} has no weights"):
            write_checkpoint(open_checkpoint(ours), tmp_path / dest, to)


def test_a_param_group_without_betas_gets_those_of_the_options(tmp_path: Path, content) -> None:
    (group,) = content["opt"]["param_groups"]
    bare = {key: value for key, value in group.items() if key != "betas"} | {"lr": torch.ones(1)}
    path = save({**content, "opt": {**content["opt"], "param_groups": [bare]}}, tmp_path / "a.pt")
    for source in (path, import_released(path, tmp_path / "ours")):
        file = convert(source, tmp_path / f"{source.stem}-back.pt", "released")
        (back,) = torch.load(file)["opt"]["param_groups"]
        assert (back["betas"], back["lr"]) == ((0.9, 0.999), 1.0)


def test_options_that_are_none_of_adamws(tmp_path: Path, ours: Path) -> None:
    change_state(ours, options={"learning_rate": "abc"})
    with pytest.raises(RepaError, match=r"the checkpoint's options are none of AdamW's: "):
        write_checkpoint(open_checkpoint(ours), tmp_path / "a.pt", "released")


@pytest.mark.parametrize("name", ["state.json", "ema.safetensors", "SHA256SUMS"])
def test_a_pipe_is_not_waited_for(ours: Path, name: str) -> None:
    """Nobody writes into it, so that opening it would never end."""
    (ours / name).unlink()
    os.mkfifo(ours / name)
    for read in (load_model, check_checkpoint):
        with pytest.raises(RepaError, match=r"damaged checkpoint.*not a regular file") as error:
            read(ours)
        assert name in str(error.value)


def test_a_pipe_is_not_waited_for_without_checksums(ours: Path) -> None:
    (ours / "SHA256SUMS").unlink()
    (ours / "ema.safetensors").unlink()
    os.mkfifo(ours / "ema.safetensors")
    for read in (load_model, check_checkpoint):
        with pytest.raises(RepaError, match=r"damaged checkpoint: .*ema.*: .*not a regular file"):
            read(ours)


class TestChangedBytes:
    """Zeroes inside a tensor, as a disk or a transfer leaves them."""

    def zero(self, path: Path, tensor: torch.Tensor) -> Path:
        whole, data = path.read_bytes(), tensor.numpy().tobytes()
        assert whole.count(data) == 1
        path.write_bytes(whole.replace(data, bytes(len(data))))
        return path

    @pytest.fixture
    def place(self, tmp_path: Path) -> tuple[Path, dict]:
        content = training_checkpoint()
        return save(content, tmp_path / "0000007.pt"), content

    def test_of_the_average(self, place: tuple[Path, dict], tmp_path: Path) -> None:
        path = self.zero(place[0], place[1]["ema"]["blocks.2.mlp.fc1.weight"])
        with pytest.raises(RepaError, match=r"0000007.pt is damaged: bytes of its tensors"):
            load_model(path)
        load_model(path, raw_weights=True)
        for to, dest in FORMATS:
            with pytest.raises(RepaError, match=r"0000007.pt is damaged"):
                write_checkpoint(open_checkpoint(path), tmp_path / dest, to)
        assert sorted(tmp_path.iterdir()) == [path]

    def test_of_the_optimizer(self, place: tuple[Path, dict]) -> None:
        path = self.zero(place[0], place[1]["opt"]["state"][5]["exp_avg"])
        load_model(path)
        with pytest.raises(RepaError, match=r"0000007.pt is damaged"):
            open_checkpoint(path)

    def test_of_sits_own(self, place: tuple[Path, dict], tmp_path: Path) -> None:
        state = place[1]["ema"] | {}
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            state[name] = torch.cat([state[name], state[name] + 1])
        state = {key: tensor for key, tensor in state.items() if "projectors" not in key}
        path = save(state, tmp_path / "SiT.pt")
        load_model(path)
        self.zero(path, state["t_embedder.mlp.0.weight"])
        with pytest.raises(RepaError, match=r"SiT.pt is damaged"):
            load_model(path)
