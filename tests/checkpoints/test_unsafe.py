"""Files that would run code, and broken ones, wherever a checkpoint is taken."""

import argparse
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints.files import ARGS, released_model
from repa.checkpoints import continue_released, load_model
from repa.cli import main
from repa.errors import RepaError


class Poison:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def contents(victim: Path) -> dict[str, object]:
    weights = released_model().state_dict()
    poison = Poison(victim)
    return {
        "alone": poison,
        "beside the weights": {"ema": weights, "extra": poison},
        "in the weights": {"ema": weights | {"pos_embed": poison}},
        "in a namespace": {"ema": weights, "args": argparse.Namespace(**ARGS, hook=poison)},
        "in a dict of options": {"ema": weights, "args": {**ARGS, "hook": poison}},
        "in the optimizer": {"model": weights, "opt": {"state": {0: poison}}},
    }


@pytest.fixture(params=[*contents(Path())])
def poisoned(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    return contents(tmp_path / "was-run")[request.param]


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_code_is_refused_and_not_run(tmp_path: Path, poisoned: object, form: str) -> None:
    path = tmp_path / ("0000001.safetensors" if form == "safetensors" else "0000001.pt")
    torch.save(poisoned, path, _use_new_zipfile_serialization=form != "old")
    with pytest.raises(RepaError, match=f"cannot read weights from {path}: ") as error:
        load_model(path)
    if form != "safetensors":
        assert ".mkdir, not only tensors and plain values" in str(error.value)
        assert "can run code when it is loaded, so it was not" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "was-run").exists()
    path = path.rename(tmp_path / "a.pt")
    torch.load(path, weights_only=False)  # the poison works
    assert (tmp_path / "was-run").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps({"ema": Poison(tmp_path / "was-run")}, protocol))
    with pytest.raises(RepaError, match=r"cannot read weights from .*a.pt: ") as error:
        load_model(path)
    if protocol >= 4:
        assert "it is a plain pickle, not a file of torch.save; such" in str(error.value)
    assert not (tmp_path / "was-run").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "was-run").exists()


def test_every_way_in_refuses(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(contents(tmp_path / "was-run")["in a namespace"], folder / "0000001.pt")
    with pytest.raises(RepaError, match="can run code"):
        load_model(tmp_path)
    with pytest.raises(RepaError, match="can run code"):
        continue_released(tmp_path, 1)
    for to, dest in (("repa", "a"), ("released", "a.pt"), ("pretrained", "a")):
        arguments = ["--ckpt", str(tmp_path), "--dest", str(tmp_path / dest), "--to", to]
        assert main(["convert", *arguments]) == 2
        assert "can run code" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_other_objects_are_named_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    args = argparse.Namespace(lr=np.float64(0.1))
    torch.save({"ema": released_model().state_dict(), "args": args}, path)
    with pytest.raises(RepaError, match=r"it holds numpy\S*\.scalar, not only") as error:
        load_model(path)
    # The advice works, for a file that one trusts.
    code = str(error.value).partition('python -c "')[2].removesuffix('"')
    before = Path.cwd()
    try:
        os.chdir(tmp_path)
        exec(code)
    finally:
        os.chdir(before)
    assert load_model(tmp_path / "weights.pt")[0].depth == 6


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(RepaError, match=r"a.pt is a TorchScript archive.*'weights.pth'"):
        load_model(tmp_path / "a.pt")


def test_broken_files_are_one_line(tmp_path: Path, released: Path) -> None:
    whole, path = released.read_bytes(), tmp_path / "a.pt"
    rng = random.Random(0)
    lengths = [0, 1, 100, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(4))]
    for data in [*(whole[:n] for n in lengths), b"<html></html>", b"version https://git-lfs"]:
        path.write_bytes(data)
        with pytest.raises(RepaError, match=f"cannot read weights from {path}") as error:
            load_model(path)
        assert "\n" not in str(error.value)


def test_not_a_dict(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "a.pt")
    with pytest.raises(RepaError, match=r"a.pt holds a list, not a state dict"):
        load_model(tmp_path / "a.pt")
