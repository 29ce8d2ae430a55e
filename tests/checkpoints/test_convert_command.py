"""`repa convert`: what it says, what it refuses, what it leaves behind."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from checkpoints.files import (
    ARGS,
    NAME,
    assert_same,
    convert,
    files,
    released_model,
    save,
    save_ours,
    training_checkpoint,
)
from repa.checkpoints import (
    import_released,
    load_model,
    read_state,
)
from repa.checkpoints.checkpoint import open_checkpoint
from repa.checkpoints.translate import write_checkpoint
from repa.cli import main
from repa.errors import RepaError


class TestCommand:
    def test_the_release_has_no_convolutional_heads(self, tmp_path: Path, capsys) -> None:
        ours = save_ours(tmp_path / "ours")
        state = json.loads((ours / "state.json").read_text())
        state["options"]["projection_layer_type"] = "conv"
        (ours / "state.json").write_text(json.dumps(state))
        dest = tmp_path / "a.pt"
        assert main(["convert", "--ckpt", str(ours), "--dest", str(dest), "--to", "released"]) == 2
        assert "its projection heads are convolutions" in capsys.readouterr().err
        assert not dest.exists()

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

    def test_nothing_of_others_is_in_the_way(self, tmp_path: Path, ours: Path) -> None:
        for to, name in (("repa", "a"), ("released", "b.pt"), ("pretrained", "c")):
            theirs = tmp_path / f"{name}.partial"
            theirs.mkdir()
            (theirs / "thesis").write_text("")
            (tmp_path / f".{name}.partial").write_text("theirs")
            (tmp_path / ".repa-convert-killed").mkdir(exist_ok=True)
            before = set(tmp_path.rglob("*"))
            dest = convert(ours, tmp_path / name, to)
            assert set(tmp_path.rglob("*")) - before == {dest, *dest.glob("*")}
            assert before < set(tmp_path.rglob("*"))

    def test_overwrite_replaces_checkpoints(self, tmp_path: Path, ours: Path, released) -> None:
        for to, name in (("repa", "a"), ("released", "b.pt"), ("pretrained", "c")):
            dest = convert(released, tmp_path / name, to)
            assert load_model(dest)[1].step == 7
            convert(ours, dest, to, "--overwrite")
            assert load_model(dest)[1].step == 9
        convert(ours, tmp_path / "c", "repa", "--overwrite")
        assert not (tmp_path / "c" / "config.json").exists()

    @pytest.mark.parametrize("to", ["repa", "released", "pretrained"])
    def test_overwrite_replaces_nothing_else(self, tmp_path, ours: Path, capsys, to: str) -> None:
        dest = tmp_path / ("home.pt" if to == "released" else "home")
        others: list[dict[str, str]] = [
            {"thesis": ""},
            {"config.json": "{}"},
            {"config.json": "{}", "thesis": ""},
            {"config.json": "[]", "model.safetensors": ""},
            {"state.json": "{}"},
            {"README.md": ""},
            {},
            {"below/state.json": "{}"},
            {"state.json": (ours / "state.json").read_text(), "thesis": ""},
            {"state.json": (ours / "state.json").read_text(), "model/thesis": ""},
        ]
        for names in others:
            for name, text in names.items():
                (dest / name).parent.mkdir(parents=True, exist_ok=True)
                (dest / name).write_text(text)
            dest.mkdir(exist_ok=True)
            before = sorted(tmp_path.rglob("*"))
            assert main(self.overwriting(ours, dest, to)) == 2
            assert "is no checkpoint: --overwrite does not replace" in capsys.readouterr().err
            assert sorted(tmp_path.rglob("*")) == before
            shutil.rmtree(dest)
        for write in (
            lambda: dest.write_text("a diary"),
            lambda: torch.save({"thesis": 1}, dest),
            lambda: torch.save({"ema": {"w": torch.ones(1)}}, dest),
        ):
            write()
            data = dest.read_bytes()
            assert main(self.overwriting(ours, dest, to)) == 2
            assert "is no checkpoint: --overwrite does not replace" in capsys.readouterr().err
            assert dest.read_bytes() == data

    @pytest.mark.parametrize("to", ["repa", "released", "pretrained"])
    def test_a_link_is_not_replaced(self, tmp_path: Path, ours: Path, capsys, to: str) -> None:
        ending = ".pt" if to == "released" else ""
        target = convert(ours, tmp_path / f"target{ending}", to)
        for pointed_to in (target, tmp_path / "nowhere"):
            link = tmp_path / f"{pointed_to.stem}-link{ending}"
            link.symlink_to(pointed_to)
            assert main(self.overwriting(ours, link, to)) == 2
            assert "is a symbolic link, which is not replaced: " in capsys.readouterr().err
            assert link.is_symlink()
        assert load_model(target)[1].step == 9

    def test_what_came_meanwhile_stays(self, tmp_path: Path, ours: Path, monkeypatch) -> None:
        def save_slowly(content: object, path: Path) -> None:
            path.touch()
            (tmp_path / "a.pt").write_text("theirs")

        monkeypatch.setattr("torch.save", save_slowly)
        with pytest.raises(RepaError, match=r"a.pt exists: choose another"):
            write_checkpoint(open_checkpoint(ours), tmp_path / "a.pt", "released")
        assert (tmp_path / "a.pt").read_text() == "theirs"

    @staticmethod
    def overwriting(ckpt: Path, dest: Path, to: str) -> list[str]:
        return ["convert", "--ckpt", str(ckpt), "--dest", str(dest), "--to", to, "--overwrite"]

    def test_no_average_to_publish(self, tmp_path: Path, content: dict, capsys) -> None:
        path = save({"model": content["model"], "args": ARGS}, tmp_path / "a.pt")
        arguments = ["--ckpt", str(path), "--dest", str(tmp_path / "b"), "--to", "pretrained"]
        assert main(["convert", *arguments]) == 2
        error = capsys.readouterr().err
        assert "a.pt has no averaged weights, which --to pretrained writes" in error
        assert "--raw-weights" not in error

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


def test_what_a_killed_write_of_training_left_is_no_obstacle(tmp_path: Path) -> None:
    for name in (".0000009.partial", "0000009.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("")
    folder = save_ours(tmp_path / "0000009")
    assert "old" not in files(folder)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["0000009", "0000009.partial"], "only the hidden name is ours"


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
