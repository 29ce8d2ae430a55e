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
from repa.weights import check_bytes, load_weights, read_weights

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


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"some text\n", "it is no PyTorch or safetensors file"),
        (b"<html></html>", "it is no PyTorch or safetensors file"),
        (b"\x80\x02X", "it is broken"),
        (b"PK\x03\x04", "it is broken"),
    ],
)
def test_what_is_wrong_is_told_without_pytorchs_advice(tmp_path, data, message, recwarn) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(RepaError, match=f"cannot read weights from .*w.pth: {message}") as error:
        read_weights(tmp_path / "w.pth")
    assert "weights_only" not in str(error.value)
    assert not recwarn.list


def test_nothing_is_warned_of_before_the_error(tmp_path: Path, recwarn) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"weight": 1}, 4))
    with pytest.raises(RepaError, match="plain pickle"):
        read_weights(path)
    torch.save({"weight": torch.ones(2, 2).to_sparse()}, path)
    read_weights(path)
    assert not recwarn.list


def test_a_few_bytes_that_stand_for_terabytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(1).expand(10**12)}, path)
    message = r"w.pth is damaged: a tensor of \(1000000000000,\) does not fit into its \d+ bytes$"
    with pytest.raises(RepaError, match=message):
        read_weights(path)
    endless: list = []
    endless.append(endless)
    torch.save({"w": endless}, path)
    with pytest.raises(RepaError, match=r"w.pth is damaged: its lists hold each other, or are far"):
        read_weights(path)


def damaged(path: Path, tensor: torch.Tensor) -> Path:
    """Its bytes zeroed in the file."""
    whole, data = path.read_bytes(), tensor.numpy().tobytes()
    assert whole.count(data) == 1
    path.write_bytes(whole.replace(data, bytes(len(data))))
    return path


class TestBytes:
    def test_changed_ones_are_told_of_the_tensors_asked_for(self, tmp_path: Path) -> None:
        path = damaged(save(tmp_path / "w.pth"), STATE["weight"])
        state = read_weights(path)
        check_bytes(path, [state["bias"]])
        with pytest.raises(RepaError, match=r"w.pth is damaged: bytes of its tensors"):
            check_bytes(path, state.values())

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.old"])
    def test_whole_files_pass(self, tmp_path: Path, name: str) -> None:
        path = save(tmp_path / name)
        check_bytes(path, read_weights(path).values())

    def test_views_and_empty_tensors_pass(self, tmp_path: Path) -> None:
        base = torch.arange(12.0).view(3, 4)
        state = {"row": base[1], "turned": base.T, "none": torch.empty(0), "half": base.half()}
        torch.save(state, tmp_path / "w.pth")
        check_bytes(tmp_path / "w.pth", read_weights(tmp_path / "w.pth").values())

    @pytest.mark.skipif(
        not hasattr(torch.serialization, "set_crc32_options"), reason="checksums always written"
    )
    def test_files_without_checksums_pass(self, tmp_path: Path) -> None:
        torch.serialization.set_crc32_options(False)
        try:
            path = save(tmp_path / "w.pth")
        finally:
            torch.serialization.set_crc32_options(True)
        check_bytes(path, read_weights(path).values())


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


def test_a_long_list_ends_with_a_whole_word() -> None:
    network = nn.Sequential(*(nn.Linear(2, 3) for _ in range(50)))
    with pytest.raises(RepaError) as error:
        load_weights(network, {}, Path("w.pth"))
    text = str(error.value)
    assert text.endswith(" ...")
    assert text.removesuffix(" ...").endswith('",')


def test_weights_that_fit_are_loaded() -> None:
    network = nn.Linear(2, 3)
    load_weights(network, STATE, Path("w.pth"))
    torch.testing.assert_close(network.weight.detach(), STATE["weight"])
