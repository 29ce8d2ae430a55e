"""SiT's and DiT's own files: told apart, and SiT's turned to our direction of time."""

import argparse
from pathlib import Path

import pytest
import torch

from checkpoints.files import NAME, random_model, save
from repa.checkpoints import load_model
from repa.errors import RepaError
from repa.models import DiT, SiT


@pytest.fixture
def state() -> dict:
    """A body that predicts eight channels: DiT's own, or SiT's own."""
    return random_model("DiT-Ti/4").state_dict()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 8, 8, generator=generator)
    return x, torch.rand(3, generator=generator), torch.tensor([0, 2, 3])


@pytest.mark.parametrize("name", ["DiT-XL-2-256x256.pt", "my_dit.pth", "0400000.dit.pt"])
def test_dit_by_its_files_name(tmp_path: Path, state: dict, name: str) -> None:
    model, found = load_model(save(state, tmp_path / name))
    assert isinstance(model, DiT)
    assert (model.objective, found.model) == ("ddpm", "DiT-Ti/4")
    x, _, y = inputs()
    steps = torch.tensor([0, 500, 999])
    assert torch.equal(model(x, steps, y), random_model("DiT-Ti/4")(x, steps, y))


@torch.no_grad()
def assert_is_own_sit_turned(model: torch.nn.Module, own: torch.nn.Module) -> None:
    """`v(x, t) = -v_own(x, 1 - t)`: SiT counts time from noise to data (its transport/path.py)."""
    assert isinstance(model, SiT)
    x, t, y = inputs()
    expected = -own(x, 1 - t, y)[:, :4]
    torch.testing.assert_close(model(x, t, y), expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().mean() > 0.1
    assert (own(x, t, y)[:, :4] + expected).abs().mean() > 1e-3, "time does not matter"


@pytest.mark.parametrize("name", ["SiT-XL-2-256x256.pt", "a-SIT.pt"])
def test_sit_by_its_files_name(tmp_path: Path, state: dict, name: str) -> None:
    model, found = load_model(save(state, tmp_path / name))
    assert found.model == NAME
    assert found.options == {"path_type": "linear", "prediction": "v"}
    assert_is_own_sit_turned(model, random_model("DiT-Ti/4"))


def test_the_argument_goes_before_the_files_name(tmp_path: Path, state: dict) -> None:
    path = save(state, tmp_path / "SiT.pt")
    assert isinstance(load_model(path, model="DiT-Ti/4")[0], DiT)
    path = save(state, tmp_path / "condition.pt")
    assert isinstance(load_model(path, model="SiT-Ti/4")[0], SiT)


@pytest.mark.parametrize("name", ["condition.pt", "visit.pt", "last.pt", "DiT-or-SiT.pt"])
def test_a_name_that_tells_neither(tmp_path: Path, state: dict, name: str) -> None:
    message = rf"{name} may be SiT's or DiT's own.*--model SiT-Ti/4 or --model DiT-Ti/4"
    with pytest.raises(RepaError, match=message):
        load_model(save(state, tmp_path / name))


def test_training_checkpoints_say_their_model(tmp_path: Path, state: dict) -> None:
    args = argparse.Namespace(model="DiT-Ti/4", global_seed=0, vae="ema", num_classes=3)
    content = {"model": state, "ema": state, "opt": None, "args": args}
    model, found = load_model(save(content, tmp_path / "0050000.pt"))
    assert isinstance(model, DiT)
    assert (found.step, found.autoencoder.name) == (50_000, "sd-vae-ft-ema")


def own_sit(tmp_path: Path, state: dict, **args) -> Path:
    options = {"model": "SiT-Ti/4", "path_type": "GVP", "prediction": "velocity", **args}
    return save({"ema": state, "args": argparse.Namespace(**options)}, tmp_path / "0000001.pt")


def test_sits_own_training_checkpoint(tmp_path: Path, state: dict) -> None:
    model, found = load_model(own_sit(tmp_path, state))
    assert found.options["path_type"] == "cosine"
    assert_is_own_sit_turned(model, random_model("DiT-Ti/4"))


def test_sits_own_options_tell_it_without_a_variance(tmp_path: Path) -> None:
    own = random_model("DiT-Ti/4", learn_sigma=False)
    model, _ = load_model(own_sit(tmp_path, own.state_dict(), path_type="Linear"))
    assert_is_own_sit_turned(model, own)


def test_sits_own_that_does_not_say_its_path(tmp_path: Path, state: dict) -> None:
    assert load_model(own_sit(tmp_path, state, path_type=None))[1].options["path_type"] == "linear"


@pytest.mark.parametrize("name", ["t_embedder.mlp.0.weight", "final_layer.linear.bias"])
def test_sits_own_without_a_tensor(tmp_path: Path, state: dict, name: str) -> None:
    del state[name]
    with pytest.raises(RepaError, match=rf"0000001.pt does not fit SiT's SiT-Ti/4: .*{name}"):
        load_model(own_sit(tmp_path, state))


@pytest.mark.parametrize(
    "changes", [{"path_type": "VP"}, {"path_type": ["GVP"]}, {"prediction": "score"}]
)
def test_sits_other_kinds_are_refused(tmp_path: Path, state: dict, changes: dict) -> None:
    with pytest.raises(RepaError, match=r"only velocities on the paths Linear, GVP"):
        load_model(own_sit(tmp_path, state, **changes))
