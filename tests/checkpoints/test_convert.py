"""From one format to another and back, without loss."""

from pathlib import Path

import pytest
import torch

from checkpoints.files import (
    ARGS,
    NAME,
    ReleasedModel,
    assert_same,
    convert,
    files,
    legacy_names,
    random_model,
    released_model,
    save,
    save_ours,
    training_parts,
)
from repa.checkpoints import (
    continue_released,
    import_released,
    load_model,
    read_state,
)
from repa.checkpoints.checkpoint import open_checkpoint
from repa.data.format import AutoencoderRecord
from repa.diffusion import FlowMatching
from repa.errors import RepaError
from repa.training.checkpoint import restore
from repa.training.module import TrainingModule


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
        assert back.keys() == {
            "SHA256SUMS", "state.json", "heads.safetensors", "ema.safetensors"
        }  # fmt: skip
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
            "SHA256SUMS", "ema.safetensors", "ema_heads.safetensors", "released.json", "state.json"
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
        module = TrainingModule(model, FlowMatching(), [8, 12], 2, projector_dim=16)
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
