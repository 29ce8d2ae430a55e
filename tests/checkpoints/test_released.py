"""Files of the release: training checkpoints, state dicts, early names."""

import argparse
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from checkpoints.files import (
    ARGS,
    DEPTH,
    NAME,
    assert_same,
    legacy_names,
    random_model,
    released_model,
    save,
    save_ours,
    training_checkpoint,
)
from repa.checkpoints import import_released, load_model
from repa.checkpoints.checkpoint import locate, locate_all, open_checkpoint, run_of
from repa.errors import RepaError


def assert_weights(model: torch.nn.Module, seed: int) -> None:
    assert not model.training
    expected = random_model(seed=seed).state_dict()
    assert_same(dict(model.state_dict()), dict(expected))


def test_a_training_checkpoint_gives_averaged_or_raw_weights(content, released) -> None:
    model, state = load_model(released)
    assert_weights(model, seed=1)
    assert (state.step, state.model, state.resolution) == (7, NAME, 64)
    assert state.autoencoder.name == "sd-vae-ft-mse"
    assert state.autoencoder.scale == 0.18215
    assert state.autoencoder.latent_shape == (4, 8, 8)
    assert state.options == ARGS
    assert state.model_arguments == {
        "input_size": 8,
        "in_channels": 4,
        "num_classes": 3,
        "class_dropout_prob": 0.1,
        "qk_norm": False,
        "fused_attn": True,
    }
    raw, _ = load_model(released, raw_weights=True)
    assert torch.equal(raw.final_layer.linear.weight, content["model"]["final_layer.linear.weight"])


@pytest.mark.parametrize("name", ["last.pt", "last.pth", "last.safetensors"])
def test_a_bare_state_dict(tmp_path: Path, name: str) -> None:
    state_dict = {k: v.clone() for k, v in released_model(3).state_dict().items()}
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(state_dict, path)
    model, state = load_model(path)
    assert_weights(model, seed=3)
    assert (state.step, state.model, state.options) == (0, NAME, {})
    with pytest.raises(RepaError, match=r"--raw-weights: .*last.* has only averaged weights"):
        load_model(path, raw_weights=True)


def test_pixels_other_sizes_and_normalized_queries_are_told_from_the_tensors(tmp_path) -> None:
    arguments = {"input_size": 32, "in_channels": 3, "num_classes": 9, "qk_norm": True}
    model = random_model("SiT-Ti/8", 4, **arguments)
    loaded, state = load_model(save(model.state_dict(), tmp_path / "a.pt"))
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))
    assert (state.model, state.resolution, state.autoencoder.name) == ("SiT-Ti/8", 32, "pixel")
    x = torch.randn(2, 3, 32, 32)
    inputs = (x, torch.rand(2), torch.tensor([0, 8]))
    assert torch.equal(loaded(*inputs), model(*inputs))


def test_without_a_null_class(tmp_path: Path) -> None:
    model = random_model(class_dropout_prob=0.0)
    content = {"ema": model.state_dict(), "args": {"num_classes": 3}}
    loaded, _ = load_model(save(content, tmp_path / "a.pt"))
    assert (loaded.num_classes, loaded.class_dropout_prob) == (3, 0.0)


def test_early_training_that_dropped_labels_twice(tmp_path: Path) -> None:
    args = ARGS | {"legacy": True, "cfg_prob": 0.2}
    _, state = load_model(
        save({"ema": released_model().state_dict(), "args": args}, tmp_path / "a.pt")
    )
    assert state.model_arguments["class_dropout_prob"] == pytest.approx(0.28)


@pytest.mark.parametrize(
    ("name", "entries", "step"),
    [
        ("a.pt", {"steps": torch.tensor(5)}, 5),
        ("a.pt", {"steps": torch.tensor([5])}, 5),
        ("a.pt", {"steps": torch.tensor(5.0)}, 5),
        ("a.pt", {"steps": "5"}, 5),
        ("0000400.pt", {"steps": 5}, 5),
        ("0000400.pt", {}, 400),
        ("0000400.pt", {"args": ARGS}, 400),
        ("0000400.pt", {"steps": -1}, 400),
        ("0000400.pt", {"steps": True}, 400),
        ("0000400.pt", {"steps": [5]}, 400),
        ("a.pt", {"steps": "many"}, 0),
    ],
)
def test_the_step_is_said_by_the_file_or_its_name(tmp_path, name, entries, step) -> None:
    path = save({"ema": released_model().state_dict(), **entries}, tmp_path / name)
    assert load_model(path)[1].step == step


def test_a_bare_state_dict_is_of_the_step_in_its_name(tmp_path: Path) -> None:
    path = save(released_model().state_dict(), tmp_path / "0400000.pt")
    assert load_model(path)[1].step == 400_000


def test_no_path_is_the_linear_one(tmp_path: Path) -> None:
    args = ARGS | {"path_type": None}
    path = save({"ema": released_model().state_dict(), "args": args}, tmp_path / "a.pt")
    assert load_model(path)[1].options["path_type"] == "linear"


class TestEarlyNames:
    def test_the_files_options_say_the_depth(self, tmp_path: Path) -> None:
        content = {"ema": legacy_names(released_model(3).state_dict()), "args": ARGS}
        model, _ = load_model(save(content, tmp_path / "a.pt"))
        assert_weights(model, seed=3)

    def test_else_the_argument(self, tmp_path: Path) -> None:
        path = save(legacy_names(released_model(3).state_dict()), tmp_path / "a.pt")
        model, state = load_model(path, encoder_depth=DEPTH)
        assert_weights(model, seed=3)
        assert state.options["encoder_depth"] == DEPTH

    def test_else_an_error(self, tmp_path: Path) -> None:
        path = save(legacy_names(released_model().state_dict()), tmp_path / "a.pt")
        with pytest.raises(RepaError, match=r"a.pt has early names .*give --encoder-depth"):
            load_model(path)

    def test_the_argument_where_the_options_say_none(self, tmp_path: Path) -> None:
        args = ARGS | {"encoder_depth": None}
        content = {"ema": legacy_names(released_model(3).state_dict()), "args": args}
        model, _ = load_model(save(content, tmp_path / "a.pt"), encoder_depth=DEPTH)
        assert_weights(model, seed=3)

    @pytest.mark.parametrize("depth", ["abc", -1, 2.5, [2]])
    def test_a_depth_that_is_none(self, tmp_path: Path, depth: object) -> None:
        args = ARGS | {"encoder_depth": depth}
        content = {"ema": legacy_names(released_model(3).state_dict()), "args": args}
        with pytest.raises(RepaError, match=r"a.pt: legacy key .* encoder_depth is needed"):
            load_model(save(content, tmp_path / "a.pt"))

    def test_a_block_without_a_number(self, tmp_path: Path) -> None:
        content = {"ema": {"decoder_blocks.x.y": torch.ones(1)}, "args": ARGS}
        with pytest.raises(RepaError, match=r"'decoder_blocks.x.y' has no block's number"):
            load_model(save(content, tmp_path / "a.pt"))

    def test_their_optimizer_counts_in_the_files_order(self, tmp_path: Path, content) -> None:
        # Early files list the later blocks after the heads.
        names = list(legacy_names(content["model"]))
        later = [n for n in names if n.startswith("decoder_blocks.")]
        order = [n for n in names if n not in later]
        order[order.index("final_layer.linear.weight") : 0] = later
        modern = list(content["model"])
        place = {legacy: modern.index(m) for m, legacy in zip(modern, names, strict=True)}
        old_state = content["opt"]["state"]
        legacy = {
            "model": {n: legacy_names(content["model"])[n] for n in order},
            "ema": legacy_names(content["ema"]),
            "opt": {
                "state": {
                    i: old_state[place[n]] for i, n in enumerate(order) if place[n] in old_state
                },
                "param_groups": content["opt"]["param_groups"],
            },
            "args": ARGS,
            "steps": 7,
        }
        path, modern_path = save(legacy, tmp_path / "a.pt"), save(content, tmp_path / "b.pt")
        optimizers = [open_checkpoint(p).parts["optimizer"] for p in (path, modern_path)]
        one, other = (dict(sorted(o.items())) for o in optimizers)
        assert_same(one, other)


class TestPlaces:
    def test_with_and_without_the_ending(self, tmp_path: Path, released: Path) -> None:
        run = tmp_path / "checkpoints"
        run.mkdir()
        (run / "0000007.pt").symlink_to(released)
        assert load_model(run / "0000007")[1].step == 7
        with pytest.raises(RepaError, match=r"no checkpoint in .*0000008"):
            load_model(run / "0000008.pt")

    def test_a_run_of_the_release_has_a_newest_one(self, tmp_path: Path) -> None:
        for step in (2, 10):
            content = {"ema": released_model().state_dict(), "steps": step}
            save(content, tmp_path / "checkpoints" / f"{step}.pt")
        (tmp_path / "checkpoints" / "notes.pt").write_text("")
        assert load_model(tmp_path)[1].step == 10

    def test_of_one_step_our_folder_goes_first(self, tmp_path: Path) -> None:
        file = save({"ema": released_model().state_dict()}, tmp_path / "checkpoints" / "10.pt")
        folder = import_released(file, file.with_suffix(""))
        assert locate(tmp_path) == folder
        file.rename(file.with_name("11.pt"))
        assert locate(tmp_path) == file.with_name("11.pt")

    def test_nothing_there(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for path in (tmp_path / "empty", tmp_path / "nowhere", tmp_path / "nowhere.pt"):
            with pytest.raises(RepaError, match=f"no checkpoint in {path} .--ckpt takes a run"):
                load_model(path)


def test_options_of_any_plain_type(tmp_path: Path) -> None:
    args = argparse.Namespace(
        model=NAME, betas=(0.9, 0.99), deep={"a": [1, None]}, dtype=torch.half
    )
    content = training_checkpoint(opt=None, args=args)
    options = load_model(save(content, tmp_path / "a.pt"))[1].options
    assert options["betas"] == [0.9, 0.99]
    assert options["deep"] == {"a": [1, None]}
    assert options["dtype"] == "torch.float16"
    assert "path_type" not in options  # whoever draws samples may say it


def test_all_checkpoints_of_a_run_are_found_in_order(tmp_path: Path, released: Path) -> None:
    run = tmp_path / "run"
    folders = [save_ours(run / "checkpoints" / f"{step:07d}") for step in (9, 20)]
    file = Path(shutil.copy(released, run / "checkpoints" / "0000010.pt"))
    shutil.copy(released, run / "checkpoints" / "0000009.pt")  # the one that ours was made of
    assert locate_all(run) == [folders[0], file, folders[1]]
    assert locate_all(folders[0]) == [folders[0]]
    assert locate_all(released) == [released]
    assert [run_of(path) for path in (folders[0], file)] == [run, run]
    assert run_of(released) is None
    with pytest.raises(RepaError, match="no checkpoint"):
        locate_all(tmp_path / "none")
