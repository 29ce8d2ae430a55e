"""From one format to another and back, without loss."""

import json
from pathlib import Path

import pytest
import torch

from checkpoints.files import (
    ARGS,
    ARGUMENTS,
    NAME,
    ReleasedModel,
    assert_same,
    legacy_names,
    random_model,
    released_model,
    save,
    training_checkpoint,
)
from repa.checkpoints import (
    CheckpointState,
    continue_released,
    import_released,
    load_model,
    read_state,
)
from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.translate import write_checkpoint
from repa.cli import main
from repa.data.format import AutoencoderRecord
from repa.diffusion import Interpolant
from repa.errors import RepaError
from repa.training.checkpoint import restore, save_checkpoint
from repa.training.module import TrainingModule


def convert(ckpt: Path, dest: Path, to: str, *more: str) -> Path:
    arguments = ["convert", "--ckpt", str(ckpt), "--dest", str(dest), "--to", to, *more]
    assert main(arguments) == 0
    return dest


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def training_parts(seed: int, heads: bool = True) -> tuple:
    """A training module, its average and its optimizer, with every tensor of its own."""
    model = random_model(seed=seed)
    module = TrainingModule(model, Interpolant(), [8, 12] if heads else [], 2, projector_dim=16)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-4, betas=(0.8, 0.95))
    sum(p.square().sum() for p in module.parameters()).backward()
    optimizer.step()
    return module, random_model(seed=seed + 1), optimizer


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return save_ours(tmp_path / "run" / "checkpoints" / "0000009")


def save_ours(folder: Path, heads: bool = True) -> Path:
    state = CheckpointState(
        step=9,
        model=NAME,
        model_arguments=ARGUMENTS | {"in_channels": 4, "class_dropout_prob": 0.1},
        autoencoder=AutoencoderRecord(name="sd-vae-ft-ema", scale=0.18215, latent_shape=(4, 8, 8)),
        resolution=64,
        classes=["a", "b", "c"],
        options={"path_type": "linear", "learning_rate": 2e-4, "adam_beta1": 0.8, "data_dir": "d"},
        scaler={"scale": 65536.0, "growth_tracker": 3},
        versions={"torch": "2.6"},
    )
    save_checkpoint(folder, state, *training_parts(20, heads))
    return folder


class TestThereAndBack:
    def test_release_ours_release(self, tmp_path: Path, released: Path, content: dict) -> None:
        folder = convert(released, tmp_path / "ours", "repa")
        back = torch.load(convert(folder, tmp_path / "back.pt", "released"), weights_only=True)
        assert_same(back, {k: dict(v) if k in ("model", "ema") else v for k, v in content.items()}
                    | {"args": vars(content["args"])})  # fmt: skip

    @pytest.mark.parametrize("heads", [True, False])
    def test_ours_release_ours(self, tmp_path: Path, heads: bool) -> None:
        ours = save_ours(tmp_path / "0000009", heads)
        file = convert(ours, tmp_path / "released.pt", "released")
        back = convert(file, tmp_path / "back", "repa")
        assert files(back) == files(ours)

    def test_ours_pretrained_ours(self, tmp_path: Path, ours: Path) -> None:
        folder = convert(ours, tmp_path / "pretrained", "pretrained")
        back = files(convert(folder, tmp_path / "back", "repa"))
        assert back["state.json"] == files(ours)["state.json"]
        assert back["heads.safetensors"] == files(ours)["heads.safetensors"]
        assert back.keys() == {"state.json", "heads.safetensors", "ema.safetensors"}
        one, other = load_model(ours)[0], load_model(tmp_path / "back")[0]
        assert_same(dict(one.state_dict()), dict(other.state_dict()))

    def test_pretrained_release_pretrained(self, tmp_path: Path, ours: Path) -> None:
        folder = convert(ours, tmp_path / "pretrained", "pretrained")
        file = convert(folder, tmp_path / "released.pt", "released")
        assert torch.load(file).keys() == {"ema", "args", "steps", "repa"}
        assert files(convert(file, tmp_path / "back", "pretrained")) == files(folder)

    def test_a_bare_state_dict_ours_and_back(self, tmp_path: Path) -> None:
        state_dict = released_model(3).state_dict()
        folder = convert(save(state_dict, tmp_path / "last.pt"), tmp_path / "ours", "repa")
        assert files(folder).keys() == {
            "ema.safetensors", "ema_heads.safetensors", "released.json", "state.json"
        }  # fmt: skip
        back = torch.load(convert(folder, tmp_path / "back.pt", "released"))
        assert_same(back, dict(state_dict))

    def test_dits_own(self, tmp_path: Path) -> None:
        state = dict(random_model("DiT-Ti/4").state_dict())
        for content in (state, {"model": state, "ema": state, "args": {"model": "DiT-Ti/4"}}):
            file = save(content, tmp_path / "DiT.pt")
            folder = convert(file, tmp_path / "ours", "repa", "--overwrite")
            back = torch.load(convert(folder, tmp_path / "back.pt", "released", "--overwrite"))
            assert_same(back, content | ({"steps": 0} if "args" in content else {}))

    def test_early_names_become_modern(self, tmp_path: Path, content: dict) -> None:
        legacy = {key: legacy_names(content[key]) for key in ("model", "ema")}
        path = save({**content, **legacy}, tmp_path / "0000007.pt")
        back = torch.load(convert(path, tmp_path / "back.pt", "released"))
        for key in ("model", "ema", "opt"):
            assert_same(dict(back[key]), dict(content[key]))

    @pytest.mark.parametrize("bare", [True, False])
    def test_sits_own_model_stays_turned(self, tmp_path: Path, bare: bool) -> None:
        state = random_model("DiT-Ti/4").state_dict()
        groups = [{"params": list(range(len(state)))}]
        opt = {"state": {1: {"step": torch.tensor(1.0)}}, "param_groups": groups}
        args = {"model": NAME, "path_type": "GVP", "prediction": "velocity"}
        content = {"model": state, "ema": state, "opt": opt, "args": args}
        own = save(state if bare else content, tmp_path / "SiT.pt")
        turned = load_model(own)[0].state_dict()
        for to, dest in (("released", "a.pt"), ("repa", "b"), ("released", "c.pt")):
            own = convert(own, tmp_path / dest, to)
            model, found = load_model(own)
            assert_same(dict(model.state_dict()), dict(turned))
            assert found.options["path_type"] == ("linear" if bare else "cosine")
            assert "optimizer" not in open_checkpoint(own).parts, "it is of other weights"


class TestTheReleasesOptimizer:
    def test_takes_what_is_written(self, tmp_path: Path, ours: Path) -> None:
        file = convert(ours, tmp_path / "released.pt", "released")
        content = torch.load(file)  # as the release reads it: weights only, since PyTorch 2.6
        model = released_model(8)
        model.load_state_dict(content["model"])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
        optimizer.load_state_dict(content["opt"])
        group = optimizer.param_groups[0]
        assert (group["lr"], group["betas"]) == (2e-4, (0.8, 0.999))

        module, _, ours_optimizer = training_parts(20)
        pairs = [
            (model.blocks[3].mlp.fc1, module.model.blocks[3].mlp.fc1),
            (model.projectors[1][2], module.heads[1][2]),
            (model.final_layer.linear, module.model.final_layer.linear),
        ]
        for theirs, mine in pairs:
            entries = ours_optimizer.state[mine.weight]
            assert_same(dict(optimizer.state[theirs.weight]), dict(entries))
        assert model.pos_embed not in optimizer.state
        sum(p.square().sum() for p in model.parameters() if p.requires_grad).backward()
        optimizer.step()

    def test_is_continued_as_it_would_have_gone_on(self, tmp_path: Path, released: Path) -> None:
        def step(model, optimizer) -> None:
            optimizer.zero_grad()
            sum(p.pow(4).sum() for p in model.parameters() if p.requires_grad).backward()
            optimizer.step()

        content = torch.load(released, weights_only=False)
        theirs = released_model(8)
        theirs.load_state_dict(content["model"])
        their_optimizer = torch.optim.AdamW(theirs.parameters(), weight_decay=0.0)
        their_optimizer.load_state_dict(content["opt"])
        step(theirs, their_optimizer)

        model = random_model(seed=30)
        module = TrainingModule(model, Interpolant(), [8, 12], 2, projector_dim=16)
        ema = random_model(seed=31)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0.0)
        restore(import_released(released, tmp_path / "ours"), module, ema, optimizer)
        step(module, optimizer)
        mine = ReleasedModel(module.model, module.heads).state_dict()
        assert_same(dict(mine), dict(theirs.state_dict()))
        changed = [k for k, v in content["model"].items() if not torch.equal(v, mine[k])]
        assert changed == [k for k in mine if k != "pos_embed"]


DATASET = {
    "autoencoder": AutoencoderRecord(name="folder", scale=0.5, latent_shape=(4, 8, 8)),
    "resolution": 32,
    "classes": ["x", "y", "z"],
}


class TestContinueReleased:
    def test_the_file_of_a_step_becomes_a_checkpoint(self, tmp_path: Path, content: dict) -> None:
        for step in (5, 7):
            save({**content, "steps": step}, tmp_path / "checkpoints" / f"{step:07d}.pt")
        folder = continue_released(tmp_path, 5, **DATASET)
        assert folder == tmp_path / "checkpoints" / "0000005"
        state = read_state(folder)
        assert {name: getattr(state, name) for name in DATASET} == DATASET
        assert (state.step, state.options) == (5, ARGS)
        before = files(folder)
        assert continue_released(tmp_path, 5) == folder
        assert files(folder) == before

    def test_no_such_step(self, tmp_path: Path) -> None:
        with pytest.raises(RepaError, match=r"no checkpoint of step 3 in .*0000003\.pt"):
            continue_released(tmp_path, 3)

    def test_what_came_without_an_optimizer_is_not_continued(self, tmp_path: Path) -> None:
        file = save(released_model().state_dict(), tmp_path / "checkpoints" / "0000005.pt")
        folder = continue_released(tmp_path, 5)
        module, ema, optimizer = training_parts(1)
        message = r"0000005 cannot be continued from: it has no model, no optimizer\.safetensors"
        with pytest.raises(RepaError, match=message):
            restore(folder, module, ema, optimizer)
        assert file.exists()


class TestCommand:
    def test_says_what_was_written(self, tmp_path: Path, released: Path, capsys) -> None:
        convert(released, tmp_path / "a", "repa")
        convert(released, tmp_path / "b", "pretrained")
        one, other = capsys.readouterr().out.splitlines()[-2:]
        assert one == (
            f"{tmp_path / 'a'}: SiT-Ti/4, step 7: weights, averaged weights, projection heads, "
            "averaged projection heads, optimizer"
        )
        assert other == (
            f"{tmp_path / 'b'}: SiT-Ti/4, step 7: averaged weights, projection heads, averaged "
            "projection heads"
        )

    @pytest.mark.parametrize(
        ("to", "dest", "message"),
        [
            ("released", "a", "--to released writes a file: end its name in .pt"),
            ("repa", "a.pt", "--to repa writes a folder: leave the ending .pt off"),
            ("repa", "taken", "exists: choose another, or --overwrite replaces it"),
            ("repa", "file/below", "cannot be written: "),
            ("repa", "r.pt/below", "lie within each other"),
        ],
    )
    def test_destinations_that_do_not_work(
        self, tmp_path: Path, content: dict, capsys, to: str, dest: str, message: str
    ) -> None:
        ckpt = save({"ema": content["ema"]}, tmp_path / "r.pt")
        (tmp_path / "taken").mkdir()
        (tmp_path / "file").write_text("")
        before = sorted(tmp_path.rglob("*"))
        arguments = ["--ckpt", str(ckpt), "--dest", str(tmp_path / dest), "--to", to]
        assert main(["convert", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("repa convert: error: --dest ")
        assert error.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before

    def test_never_onto_its_source(self, tmp_path: Path, ours: Path, capsys) -> None:
        before = files(ours)
        for dest in (ours, ours / "below", ours.parent.parent):
            arguments = ["--ckpt", str(ours), "--dest", str(dest), "--to", "pretrained"]
            assert main(["convert", *arguments, "--overwrite"]) == 2
            assert "lie within each other" in capsys.readouterr().err
        assert files(ours) == before

    def test_what_a_killed_run_left_is_no_obstacle(self, tmp_path: Path, ours: Path) -> None:
        for to, name in (("repa", "a"), ("released", "b.pt"), ("pretrained", "c")):
            (tmp_path / f"{name}.partial").mkdir()
            (tmp_path / f"{name}.partial" / "old").write_text("")
            dest = convert(ours, tmp_path / name, to)
            assert dest.is_file() or "old" not in files(dest)
        assert not list(tmp_path.glob("*.partial"))

    def test_overwrite_replaces_checkpoints_only(self, tmp_path: Path, ours: Path, capsys) -> None:
        for to, name in (("repa", "a"), ("released", "b.pt"), ("pretrained", "c")):
            dest = convert(ours, tmp_path / name, to)
            old = dest if dest.is_file() else dest / "old"
            old.write_text("old")
            convert(ours, dest, to, "--overwrite")
            assert not old.exists() or old.read_bytes() != b"old"
            assert load_model(dest)[1].step == 9
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "thesis").write_text("")
        arguments = ["--ckpt", str(ours), "--dest", str(tmp_path / "home"), "--to", "repa"]
        assert main(["convert", *arguments, "--overwrite"]) == 2
        assert "is no checkpoint: --overwrite does not replace it" in capsys.readouterr().err
        assert (tmp_path / "home" / "thesis").exists()

    def test_a_failing_disk_leaves_nothing(self, tmp_path: Path, ours: Path, monkeypatch) -> None:
        def fail(*_) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("torch.save", fail)
        monkeypatch.setattr("repa.checkpoints.folder.save_file", fail)
        before = sorted(tmp_path.rglob("*"))
        for to, dest in (("repa", "a"), ("released", "b.pt"), ("pretrained", "c")):
            with pytest.raises(RepaError, match=f"{dest}: cannot be written: No space left"):
                write_checkpoint(open_checkpoint(ours), tmp_path / dest, to)
        assert sorted(tmp_path.rglob("*")) == before

    def test_the_word_released_is_the_published_checkpoint(self, tmp_path, monkeypatch) -> None:
        path = save(released_model().state_dict(), tmp_path / "last.pt")
        monkeypatch.setattr("repa.checkpoints.checkpoint.released_checkpoint", lambda: path)
        assert read_state(convert(Path("released"), tmp_path / "ours", "repa")).model == NAME


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, ours: Path) -> None:
    (tmp_path / "plain").touch()
    for folder in (ours, convert(ours, tmp_path / "a", "pretrained")):
        for path in folder.iterdir():
            assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, path


@pytest.mark.parametrize("text", ["", "{", '{"bare": 3}', '{"x": 1}'])
def test_a_broken_record_is_a_damaged_checkpoint(tmp_path: Path, released, text: str) -> None:
    folder = import_released(released, tmp_path / "a")
    assert json.loads((folder / "released.json").read_text())["bare"] is False
    (folder / "released.json").write_text(text)
    with pytest.raises(RepaError, match=r"damaged checkpoint .*released\.json"):
        load_model(folder)


@pytest.mark.parametrize("entry", [3, {}, {"state": "{", "ema_heads": True}])
def test_a_broken_entry_of_ours_is_a_damaged_checkpoint(tmp_path: Path, content, entry) -> None:
    path = save({"ema": content["ema"], "repa": entry}, tmp_path / "a.pt")
    with pytest.raises(RepaError, match=r"damaged checkpoint .*a\.pt"):
        load_model(path)


def test_averaged_heads_that_equal_the_others_are_kept_once(tmp_path: Path, content: dict) -> None:
    same = training_checkpoint(ema=content["model"], opt=None)
    folder = convert(save(same, tmp_path / "a.pt"), tmp_path / "ours", "repa")
    assert "ema_heads.safetensors" not in files(folder)
    back = torch.load(convert(folder, tmp_path / "b.pt", "released"))
    assert_same(back["ema"], dict(content["model"]))
