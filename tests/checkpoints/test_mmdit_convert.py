"""Text-to-image checkpoints from one format to another, continued, and published."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from checkpoints.files import assert_same, convert, files, save
from checkpoints.text_files import (
    ARGS,
    NAME,
    ReleasedMMDiT,
    random_mmdit,
    released_mmdit,
    save_ours,
    t2i_checkpoint,
    text_module,
)
from repa.checkpoints import continue_released, load_model, read_state
from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.translate import import_released, write_checkpoint
from repa.errors import RepaError
from repa.models import MMDiT, SiT
from repa.training.checkpoint import restore


@pytest.fixture(scope="module")
def content() -> dict:
    """A training checkpoint of the release; not to be changed."""
    return t2i_checkpoint()


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, content: dict) -> Path:
    """The same as a file."""
    return save(content, tmp_path_factory.mktemp("t2i") / "0000007.pt")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run of ours; not to be changed."""
    return save_ours(tmp_path_factory.mktemp("ours") / "0000009")


@pytest.fixture(scope="module")
def folder(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, to be published."""
    return convert(ours, tmp_path_factory.mktemp("pretrained") / "model", "pretrained")


class TestThereAndBack:
    def test_release_ours_release(self, tmp_path: Path, released: Path, content: dict) -> None:
        folder = convert(released, tmp_path / "ours", "repa", "--model", NAME)
        assert read_state(folder).options["null_context"] == "missing"
        back = torch.load(convert(folder, tmp_path / "back.pt", "released"), weights_only=True)
        assert_same(back, {k: dict(v) if k in ("model", "ema") else v for k, v in content.items()}
                    | {"args": vars(content["args"])})  # fmt: skip

    def test_a_bare_state_dict_ours_and_back(self, tmp_path: Path) -> None:
        state_dict = released_mmdit(3).state_dict()
        file = save(state_dict, tmp_path / "last.pt")
        folder = convert(file, tmp_path / "ours", "repa", "--model", NAME)
        assert_same(torch.load(convert(folder, tmp_path / "back.pt", "released")), dict(state_dict))

    def test_ours_release_ours(self, tmp_path: Path, ours: Path) -> None:
        file = convert(ours, tmp_path / "released.pt", "released")
        assert not any("null_context" in torch.load(file)[part] for part in ("model", "ema"))
        assert files(convert(file, tmp_path / "back", "repa")) == files(ours)
        assert_same(*(dict(load_model(path)[0].state_dict()) for path in (file, ours)))

    def test_ours_pretrained_release_pretrained(self, tmp_path: Path, ours, folder) -> None:
        assert_same(*(dict(load_model(path)[0].state_dict()) for path in (folder, ours)))
        file = convert(folder, tmp_path / "released.pt", "released")
        assert files(convert(file, tmp_path / "back", "pretrained")) == files(folder)


class TestTheReleasesOptimizer:
    def test_takes_what_is_written(self, tmp_path: Path, ours: Path) -> None:
        content = torch.load(convert(ours, tmp_path / "released.pt", "released"))
        model = released_mmdit(8)
        model.load_state_dict(content["model"])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
        optimizer.load_state_dict(content["opt"])
        module, _, ours_optimizer = text_module(20)
        pairs = [
            (model.x_embedder.proj, module.model.x_embedder.proj),
            (model.context_embedder, module.model.context_embedder),
            (model.joint_blocks[3].x_block.mlp.fc1, module.model.joint_blocks[3].x_block.mlp.fc1),
            (model.final_layer.linear, module.model.final_layer.linear),
            (model.projectors[1][2], module.heads[1][2]),
        ]
        for theirs, mine in pairs:
            entries = ours_optimizer.state[mine.weight]
            assert_same(dict(optimizer.state[theirs.weight]), dict(entries))

    def test_is_continued_as_it_would_have_gone_on(self, tmp_path: Path, released: Path) -> None:
        def step(model, optimizer) -> None:
            optimizer.zero_grad()
            sum(p.pow(4).sum() for p in model.parameters()).backward()
            optimizer.step()

        content = torch.load(released, weights_only=False)
        theirs = released_mmdit(8)
        theirs.load_state_dict(content["model"])
        their_optimizer = torch.optim.AdamW(theirs.parameters(), weight_decay=0.0)
        their_optimizer.load_state_dict(content["opt"])
        step(theirs, their_optimizer)

        # The release's options name no model; this one must be named, as it is not of its size.
        named = torch.load(released, weights_only=False) | {"args": ARGS | {"model": NAME}}
        save(named, tmp_path / "checkpoints" / "0000007.pt")
        tokens = torch.arange(60).reshape(5, 12).half()
        folder = continue_released(tmp_path, 7, null_context=tokens)
        module, ema, optimizer = text_module(30)
        restore(folder, module, ema, optimizer)
        for group in optimizer.param_groups:
            group |= {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.0}
        step(module, optimizer)
        mine = ReleasedMMDiT(module.model, module.heads).state_dict()
        assert_same(dict(mine), dict(theirs.state_dict()))
        changed = [k for k, v in content["model"].items() if not torch.equal(v, mine[k])]
        assert changed == [k for k in mine if k != "pos_embed"]
        for model in (module.model, ema):
            assert torch.equal(model.null_context, tokens.float())


class TestTheEmptyText:
    def test_is_filled_where_it_is_missing(self, tmp_path: Path, released: Path, content) -> None:
        tokens = torch.randn(6, 12)
        folder = import_released(released, tmp_path / "a", model=NAME, null_context=tokens)
        model, state = load_model(folder)
        assert torch.equal(model.null_context, tokens)
        assert (state.options, state.model_arguments["context_length"]) == (ARGS, 6)
        back = torch.load(convert(folder, tmp_path / "back.pt", "released"))
        assert_same(back["ema"], dict(content["ema"]))

    def test_stays_where_it_is(self, tmp_path: Path, ours: Path) -> None:
        import_released(ours, tmp_path / "a", null_context=torch.ones(6, 12))
        assert torch.equal(load_model(tmp_path / "a")[0].null_context,
                           random_mmdit(21).null_context)  # fmt: skip

    def test_of_another_text_model(self, tmp_path: Path, released: Path) -> None:
        message = r"does not fit MMDiT-Ti/4: in model, null_context is 6 x 13, not 6 x 12"
        with pytest.raises(RepaError, match=message):
            import_released(released, tmp_path / "a", model=NAME, null_context=torch.ones(6, 13))
        assert not (tmp_path / "a").exists()

    @pytest.mark.parametrize("entry", [3, {"ema": 3}, {"heads?": torch.ones(1)}])
    def test_a_broken_entry(self, tmp_path: Path, ours: Path, entry: object) -> None:
        content = torch.load(convert(ours, tmp_path / "a.pt", "released"))
        content["repa"]["null_context"] = entry
        with pytest.raises(RepaError, match=r"damaged checkpoint .*a.pt: its 'repa' entry is not"):
            load_model(save(content, tmp_path / "a.pt"))


def test_padding_is_nothing_that_the_release_knows(tmp_path: Path) -> None:
    ours = save_ours(tmp_path / "ours", mask_padding=True)
    with pytest.raises(RepaError, match=r"does not attend to its texts' padding \(mask_padding\)"):
        write_checkpoint(open_checkpoint(ours), tmp_path / "a.pt", "released")
    assert load_model(ours)[0].mask_padding


def read_card(folder: Path) -> tuple[dict, str]:
    header, body = (folder / "README.md").read_text().removeprefix("---\n").split("\n---\n")
    return yaml.safe_load(header), body


class TestPretrained:
    def test_it_is_the_averaged_model(self, folder: Path, ours: Path) -> None:
        model = MMDiT.from_pretrained(folder)
        assert_same(dict(model.state_dict()), dict(random_mmdit(21).state_dict()))
        config = json.loads((folder / "config.json").read_text())
        assert (config["num_heads"], config["context_length"]) == (3, 5)
        assert load_model(folder)[1] == read_state(ours)

    def test_card(self, folder: Path) -> None:
        meta, body = read_card(folder)
        assert meta["pipeline_tag"] == "text-to-image"
        assert {"repa", "flow-matching", "mmdit"} <= set(meta["tags"])
        for text in (
            "# MMDiT-Ti/4", "images of 64 x 64 pixels from texts, after 9 training steps. The",
            "repa sample --ckpt FOLDER --prompt", "| blocks, width, heads | 6, 192, 3 |",
            "| context dim | 12 |", "| mask padding | False |",
        ):  # fmt: skip
            assert text in body
        assert "class" not in body
        assert "missing" not in body

    def test_its_python_runs(self, folder: Path) -> None:
        code = read_card(folder)[1].split("```python\n")[1].split("```")[0]
        scope: dict = {}
        exec(code.replace("FOLDER_OR_REPOSITORY", str(folder)), scope)
        assert scope["prediction"].shape == (1, 4, 8, 8)

    def test_a_card_without_the_empty_text_says_so(self, tmp_path: Path) -> None:
        path = save(released_mmdit().state_dict(), tmp_path / "a.pt")
        write_checkpoint(open_checkpoint(path, model=NAME), tmp_path / "b", "pretrained")
        assert (
            "tokens are missing: fill `model.null_context` before" in read_card(tmp_path / "b")[1]
        )

    def test_what_save_pretrained_writes_alone_is_a_checkpoint(self, tmp_path: Path) -> None:
        model = random_mmdit(4, context_dropout_prob=0.2, mask_padding=True, qk_norm=True)
        model.save_pretrained(tmp_path / "a")
        loaded, state = load_model(tmp_path / "a")
        assert_same(dict(loaded.state_dict()), dict(model.state_dict()))
        assert (state.model, loaded.context_dropout_prob, loaded.mask_padding) == (NAME, 0.2, True)
        with pytest.raises(RepaError, match="does not fit"):
            SiT.from_pretrained(tmp_path / "a")

    def test_with_other_heads_it_is_none_of_the_named_ones(self, tmp_path: Path) -> None:
        MMDiT(input_size=8, depth=6, context_dim=12).save_pretrained(tmp_path / "a")
        with pytest.raises(RepaError, match=r"a: MMDiT-Ti/2 has 3 heads, not 6"):
            load_model(tmp_path / "a")
        assert MMDiT.from_pretrained(tmp_path / "a").depth == 6
