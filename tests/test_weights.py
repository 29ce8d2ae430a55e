import argparse
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from repa.errors import RepaError
from repa.weights import load_weights, read_weights

STATE = {"weight": torch.arange(6.0).view(3, 2), "bias": torch.ones(3)}


def save(path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(STATE, path)
    elif path.suffix == ".old":
        torch.save(STATE, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(STATE, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.old"])
def test_every_form_is_read(tmp_path: Path, name: str) -> None:
    state = read_weights(save(tmp_path / name))
    assert state.keys() == STATE.keys()
    for key, value in STATE.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.old"])
def test_broken_bytes_are_one_clear_line(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name)
    whole = path.read_bytes()
    rng = random.Random(0)
    variants = [whole[: rng.randrange(len(whole))] for _ in range(40)] + [b"", b"\x80", b"text"]
    variants += [b"\x80\x02" + rng.randbytes(rng.randrange(1, 100)) for _ in range(100)]
    for data in variants:
        path.write_bytes(data)
        with pytest.raises(RepaError) as error:
            read_weights(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was-run"),)

    for old in (False, True):
        torch.save({"weight": Poison()}, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
        with pytest.raises(RepaError, match=r"cannot read weights from .*w.pth: it holds .*mkdir"):
            read_weights(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Poison()))
    with pytest.raises(RepaError, match=r"cannot read weights from .*w.pth"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "was-run").exists()


def test_a_scripts_options_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    torch.save({"model": STATE, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth")["model"].keys() == STATE.keys()


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.pth"):
        with pytest.raises(RepaError, match=f"no weight file {path}"):
            read_weights(path)


def test_a_file_of_something_else_than_a_state_dict(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "w.pth")
    with pytest.raises(RepaError, match=r"w.pth holds a list, not a state dict"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": STATE["weight"]}, "Missing key.*bias"),
        (STATE | {"scale": torch.ones(1)}, "Unexpected key.*scale"),
        (STATE | {"bias": torch.ones(4)}, "size mismatch for bias"),
        (STATE | {"bias": "text"}, "bias"),
    ],
)
def test_weights_that_do_not_fit_are_one_clear_line(state: dict, message: str) -> None:
    with pytest.raises(RepaError, match=f"w.pth does not fit the network: .*{message}") as error:
        load_weights(nn.Linear(2, 3), state, Path("w.pth"))
    assert "\n" not in str(error.value)


def test_weights_that_fit_are_loaded() -> None:
    network = nn.Linear(2, 3)
    load_weights(network, STATE, Path("w.pth"))
    torch.testing.assert_close(network.weight.detach(), STATE["weight"])
