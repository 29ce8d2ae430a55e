"""Text-to-image checkpoints read: told by their tensors, and refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from checkpoints.files import assert_same, convert, random_model, save
from checkpoints.text_files import (
    ARGS,
    NAME,
    random_mmdit,
    released_mmdit,
    save_ours,
    t2i_checkpoint,
    t2i_state_of_the_release,
)
from repa.checkpoints import import_released, lacks_null_context, load_model
from repa.checkpoints.architecture import infer_architecture
from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.families import family_of, size_of
from repa.errors import RepaError
from repa.models import MMDiT


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    return x, torch.rand(2, generator=generator), torch.randn(2, 7, 12, generator=generator)


@pytest.mark.parametrize(("part", "raw", "seed"), [("ema", False, 1), ("model", True, 0)])
@torch.no_grad()
def test_the_releases_training_checkpoint(tmp_path: Path, part, raw: bool, seed: int) -> None:
    content = {part: released_mmdit(seed).state_dict(), "args": ARGS, "steps": torch.tensor(7)}
    model, state = load_model(save(content, tmp_path / "a.pt"), raw_weights=raw, model=NAME)
    assert isinstance(model, MMDiT)
    assert torch.equal(model(*inputs()), random_mmdit(seed)(*inputs()))
    assert (state.step, state.model, state.resolution, state.classes) == (7, NAME, 64, [])
    assert (state.autoencoder.name, state.autoencoder.latent_shape) == ("sd-vae-ft-mse", (4, 8, 8))
    assert state.model_arguments == {
        "input_size": 8,
        "in_channels": 4,
        "context_dim": 12,
        "context_length": 77,
        "mask_padding": False,
        "context_dropout_prob": 0.1,  # its dataset's; the script does not read --cfg-prob
        "qk_norm": False,
        "fused_attn": True,
    }


def test_the_empty_text_is_missing_there_and_said_to_be(tmp_path: Path) -> None:
    path = save(released_mmdit(1).state_dict(), tmp_path / "last.pt")
    model, state = load_model(path, model=NAME)
    assert (model.null_context == 0).all()
    assert model.null_context.shape == (77, 12)
    assert state.options == {"null_context": "missing"}
    assert lacks_null_context(state)
    assert not lacks_null_context(open_checkpoint(save_ours(tmp_path / "ours")).state)


def test_the_releases_own_size_needs_no_name(tmp_path: Path) -> None:
    content = {"ema": t2i_state_of_the_release(), "args": ARGS}
    path = save(content, tmp_path / "0150000.pt")
    state = open_checkpoint(path).state
    assert (state.model, state.step, state.resolution) == ("MMDiT-S/2", 150_000, 256)
    assert (family_of(state.model), size_of(state.model)) == ("MMDiT", (24, 768, 24))
    assert state.model_arguments["context_dim"] == 768
    with pytest.raises(RepaError, match=r"--model MMDiT-S/4: .*0150000.pt holds MMDiT-S/2"):
        load_model(path, model="MMDiT-S/4")


@torch.no_grad()
def test_heads_that_tensors_do_not_tell(tmp_path: Path) -> None:
    """The release has one a block; the small model here has three in six blocks."""
    state = released_mmdit(1).state_dict()
    bare = save(state, tmp_path / "a.pt")
    message = r"a.pt: with the release's 6 heads, .* if it has 3, give --model MMDiT-Ti/4"
    with pytest.raises(RepaError, match=message):
        load_model(bare)
    named = save({"ema": state, "args": ARGS | {"model": NAME}}, tmp_path / "b.pt")
    for model, _ in (load_model(bare, model=NAME), load_model(named)):
        assert torch.equal(model(*inputs()), random_mmdit(1)(*inputs()))


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@torch.no_grad()
def test_a_state_dict_of_ours_holds_the_empty_text(tmp_path: Path, name: str) -> None:
    model = random_mmdit(3, in_channels=3, qk_norm=True)
    state_dict = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(state_dict, path)
    loaded, state = load_model(path)
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))
    assert (state.model, state.autoencoder.name, state.options) == (NAME, "pixel", {})
    assert (state.model_arguments["context_length"], state.model_arguments["qk_norm"]) == (5, True)
    back = convert(path, tmp_path / "back.pt", "released")
    assert_same(dict(load_model(back)[0].state_dict()), state_dict)


def test_sizes_from_tensors_alone() -> None:
    state = t2i_state_of_the_release()
    found = infer_architecture(state, Path("a.pt"))
    assert found.name("MMDiT", Path("a.pt")) == "MMDiT-S/2"
    assert (found.depth, found.hidden_size, found.input_size, found.qk_norm) == (24, 768, 32, False)
    for changes in ({"depth": 23}, {"hidden_size": 736}, {"patch_size": 3}, {"head_dim": 64}):
        with pytest.raises(RepaError, match=r"a.pt: .* are no MMDiT with a name .*S 24 x 768"):
            replace(found, **changes).name("MMDiT", Path("a.pt"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("context_embedder.weight", None),
        ("context_embedder.weight", (192,)),
        ("final_layer.linear.weight", (0, 192)),
        ("pos_embed", None),
        ("null_context", (5, 12, 1)),
    ],
)
def test_what_is_no_mmdit(tmp_path: Path, name: str, shape: tuple | None) -> None:
    state = dict(random_mmdit().state_dict())
    del state[name]
    if shape is not None:
        state[name] = torch.zeros(shape)
    with pytest.raises(RepaError, match=rf"a.pt is no SiT, DiT or MMDiT: it has no {name} of"):
        load_model(save(state, tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("joint_blocks.5.context_block.attn.proj.weight", (192, 192), "Unexpected key"),
        ("y_embedder.mlp.0.weight", (192, 8), "Unexpected key"),
        ("joint_blocks.3.x_block.attn.proj.bias", (3,), "size mismatch"),
        ("joint_blocks.3.x_block.attn.proj.bias", None, "Missing key"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, name: str, shape, message: str) -> None:
    state = dict(released_mmdit().state_dict())
    state.pop(name, None)
    if shape is not None:
        state[name] = torch.ones(shape)
    path = save(state, tmp_path / "a.pt")
    with pytest.raises(RepaError, match=f"a.pt does not fit the network: {message}.*{name}"):
        load_model(path, model=NAME)
    with pytest.raises(RepaError, match=f"a.pt does not fit {NAME}: in ema, {name} is "):
        import_released(path, tmp_path / "ours", model=NAME)


@pytest.mark.parametrize("model", ["SiT-Ti/4", "DiT-Ti/4"])
def test_another_family_asked_for(tmp_path: Path, model: str) -> None:
    path = save(released_mmdit().state_dict(), tmp_path / "DiT.pt")
    with pytest.raises(RepaError, match=rf"--model {model}: .*DiT.pt holds MMDiT-Ti/4"):
        load_model(path, model=model)
    of_classes = save(random_model(model).state_dict(), tmp_path / "a.pt")
    with pytest.raises(RepaError, match=rf"--model {NAME}: .*a.pt holds a SiT or DiT"):
        load_model(of_classes, model=NAME)


@pytest.mark.parametrize(
    ("opt", "message"),
    [
        ({"state": {}, "param_groups": [{"params": [0, 1]}]}, "counts 2 parameters, its model has"),
        ({"state": {}, "param_groups": []}, "not the state of one AdamW"),
    ],
)
def test_another_optimizer(tmp_path: Path, opt: dict, message: str) -> None:
    content = {"model": released_mmdit().state_dict(), "opt": opt}
    path = save(content, tmp_path / "a.pt")
    with pytest.raises(RepaError, match=message):
        import_released(path, tmp_path / "ours", model=NAME)
    load_model(path, raw_weights=True, model=NAME)


def test_changed_bytes(tmp_path: Path) -> None:
    content = t2i_checkpoint()
    path = save(content, tmp_path / "a.pt")
    whole = path.read_bytes()
    data = content["ema"]["context_embedder.weight"].numpy().tobytes()
    assert whole.count(data) == 1
    path.write_bytes(whole.replace(data, bytes(len(data))))
    with pytest.raises(RepaError, match=r"a.pt is damaged: bytes of its tensors"):
        load_model(path, model=NAME)
    load_model(path, raw_weights=True, model=NAME)
