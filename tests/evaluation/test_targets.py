import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from evaluation.disk import full_disk
from repa.config import EvaluateOptions
from repa.errors import RepaError
from repa.evaluation.targets import NEAREST_MARK, SCORE_COLUMNS, check_targets, writing
from repa.files import replacing, write_atomically

FLAGS = {"output": "--output", "save_stats": "--save-stats"}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Images to compare, weights, and a folder of further images."""
    (tmp_path / "folder").mkdir()
    paths = {name: tmp_path / f"{name}.npz" for name in ("samples", "reference")}
    for path in paths.values():
        np.savez(path, np.zeros((9, 8, 8, 3), np.uint8))
    (tmp_path / "weights.pth").write_bytes(b"weights")
    return paths | {"network_weights": tmp_path / "weights.pth"}


def check(inputs: dict[str, Path], **targets: Any) -> None:
    check_targets(EvaluateOptions.model_validate(inputs | targets))


@pytest.mark.parametrize("target", FLAGS)
@pytest.mark.parametrize("given", ["samples", "reference", "network_weights"])
def test_what_is_read_is_never_overwritten(
    inputs: dict[str, Path], tmp_path: Path, target: str, given: str
) -> None:
    path = inputs[given].rename(tmp_path / "x.npz")
    inputs |= {given: path}
    (tmp_path / "link.npz").symlink_to(path)
    (tmp_path / "linked").symlink_to(tmp_path)
    flag = "--" + given.replace("_", "-")
    for same in (
        path,
        tmp_path / "folder/../x.npz",
        tmp_path / "link.npz",
        tmp_path / "linked/x.npz",
    ):
        with pytest.raises(RepaError, match=rf"^{FLAGS[target]} [^\n]* would overwrite {flag} "):
            check(inputs, **{target: same})
    inputs[given] = tmp_path / "link.npz"
    with pytest.raises(RepaError, match=rf"^{FLAGS[target]} [^\n]* would overwrite {flag} "):
        check(inputs, **{target: path})


@pytest.mark.parametrize("target", FLAGS)
def test_nothing_is_written_among_the_images(
    inputs: dict[str, Path], tmp_path: Path, target: str
) -> None:
    inputs |= {"samples": tmp_path / "folder"}
    for name in ("folder/x.npz", "folder/new/deep/x.npz", "new/../folder/x.npz"):
        with pytest.raises(RepaError, match=rf"{FLAGS[target]} [^\n]* lies in --samples "):
            check(inputs, **{target: tmp_path / name})
    check(inputs, **{target: tmp_path / "folder.npz"})


@pytest.mark.parametrize("other", ["x.npz", "folder/../x.npz", "link.npz", "x.npz/y.npz"])
def test_two_results_need_two_names(inputs: dict[str, Path], tmp_path: Path, other: str) -> None:
    (tmp_path / "link.npz").symlink_to(tmp_path / "x.npz")
    with pytest.raises(RepaError, match=r"--output and --save-stats [^\n]*: give each a name"):
        check(inputs, output=tmp_path / other, save_stats=tmp_path / "x.npz")
    with pytest.raises(RepaError, match=r"--output and --save-stats [^\n]*: give each a name"):
        check(inputs, output=tmp_path / "x.npz", save_stats=tmp_path / other)


def test_a_picture_needs_a_name_of_its_own(inputs: dict[str, Path], tmp_path: Path) -> None:
    for target in ("output", "save_stats"):
        with pytest.raises(RepaError, match=rf"{FLAGS[target]} and --nearest [^\n]*: give each"):
            check(inputs, **{target: tmp_path / "x.png/y.npz", "nearest": tmp_path / "x.png"})
    with pytest.raises(RepaError, match=r"^--nearest .*x.jpg: expected a name that ends in .png$"):
        check(inputs, nearest=tmp_path / "x.jpg")
    inputs |= {"samples": tmp_path / "folder"}
    with pytest.raises(RepaError, match=r"^--nearest [^\n]* lies in --samples "):
        check(inputs, nearest=tmp_path / "folder" / "x.png")


@pytest.mark.parametrize("text", [NEAREST_MARK[1], "a camera", None])
def test_only_a_picture_of_ours_is_replaced(
    inputs: dict[str, Path], tmp_path: Path, text: str | None
) -> None:
    mark = PngImagePlugin.PngInfo()
    if text is not None:
        mark.add_text(NEAREST_MARK[0], text)
    Image.new("RGB", (3, 3)).save(tmp_path / "x.png", pnginfo=mark)
    if text == NEAREST_MARK[1]:
        check(inputs, nearest=tmp_path / "x.png", overwrite=True)
        return
    whole = (tmp_path / "x.png").read_bytes()
    for data in (whole, whole[:20], b"my diary\n", b""):
        (tmp_path / "x.png").write_bytes(data)
        message = r"^--nearest .*x.png exists and is no former picture of repa evaluate: choose an"
        with pytest.raises(RepaError, match=message):
            check(inputs, nearest=tmp_path / "x.png", overwrite=True)


RESULTS: dict[str, bytes] = {
    "ours": b'{"network": "inception", "samples": {}, "fid": 1}',
    "ours of before, not quite JSON": b'{"network": "inception", "samples": {}, "fid": NaN}',
}
OTHERS: dict[str, bytes] = {
    "empty": b"",
    "text": b"my diary\n",
    "bytes": b"\xff\xfe\x00",
    "a list": b'["network", "samples"]',
    "a string": b'"network samples"',
    "other JSON": b'{"network": "inception"}',
    "deep": b"[" * 100_000,
    "long": b'{"network": "", "samples": ""}' + b" " * (1 << 20),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_a_file_that_is_no_former_result_is_kept(
    inputs: dict[str, Path], tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "x.json").write_bytes(data)
    message = "x.json exists and is no former result[^\n]*: choose another name or delete it$"
    with pytest.raises(RepaError, match=rf"^--output [^\n]*{message}"):
        check(inputs, output=tmp_path / "x.json")


@pytest.mark.parametrize("data", RESULTS.values(), ids=RESULTS)
def test_a_former_result_is_replaced_if_told_so(
    inputs: dict[str, Path], tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "x.json").write_bytes(data)
    check(inputs, output=tmp_path / "x.json", overwrite=True)
    message = (
        r"^--output .*x.json holds the result of another job \(different: .*samples.*\): choose"
    )
    with pytest.raises(RepaError, match=message):
        check(inputs, output=tmp_path / "x.json")


def test_the_same_job_replaces_its_own_result_and_what_lies_beside(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    record = {"network": "inception", "neighbors": 3, "seed": 0}
    record |= {name: {"path": str(path)} for name, path in inputs.items()}
    targets = {"output": tmp_path / "x.json", "prompt_scores": tmp_path / "x.csv"}
    targets["prompt_scores"].write_text("index,prompt,score\n")
    with pytest.raises(RepaError, match=r"x.csv exists: choose another name, or --overwrite"):
        check(inputs, **targets)
    targets["output"].write_text(json.dumps(record))
    check(inputs, **targets)
    for other in ({"neighbors": 4}, {"seed": 1}, {"reference": 7}, {"samples": {"path": "b"}}):
        targets["output"].write_text(json.dumps(record | other))
        message = rf"different: {next(iter(other))}\): choose another name, or --overwrite"
        with pytest.raises(RepaError, match=message):
            check(inputs, **targets)
        check(inputs, **targets, overwrite=True)


@pytest.mark.parametrize(
    ("names", "ours"),
    [
        (("mu", "sigma", "network"), True),
        (("mu", "sigma"), False),  # perhaps someone's only copy
        (("mu", "sigma", "network", "arr_0"), False),
        (("arr_0",), False),
        ((), False),
    ],
)
def test_only_statistics_of_ours_are_replaced(
    inputs: dict[str, Path], tmp_path: Path, names: tuple[str, ...], ours: bool
) -> None:
    np.savez(tmp_path / "x.npz", **{name: np.zeros(3) for name in names})
    if ours:
        check(inputs, save_stats=tmp_path / "x.npz", overwrite=True)
        return
    with pytest.raises(RepaError, match=r"--save-stats .*x.npz exists and is no .*or delete it$"):
        check(inputs, save_stats=tmp_path / "x.npz", overwrite=True)


def test_a_file_that_is_no_npz_is_kept(inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"text")
    with pytest.raises(RepaError, match=r"--save-stats .*x.npz exists and is no former"):
        check(inputs, save_stats=tmp_path / "x.npz", overwrite=True)


@pytest.mark.parametrize("data", ["index,prompt\n", "", "index,prompt,score"])
def test_only_a_list_of_ours_is_replaced(
    inputs: dict[str, Path], tmp_path: Path, data: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_text(",".join(SCORE_COLUMNS) + "\n0,a,1.5\n")
    check(inputs, prompt_scores=path, overwrite=True)
    path.write_text(data)
    with pytest.raises(RepaError, match=r"^--prompt-scores .*x.csv exists and is no former list"):
        check(inputs, prompt_scores=path, overwrite=True)


def test_a_list_needs_a_name_and_place_of_its_own(inputs: dict[str, Path], tmp_path: Path) -> None:
    csv = tmp_path / "x.csv"
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "clip").mkdir()
    (tmp_path / "p.csv").write_text("")
    folder = inputs | {"samples": tmp_path / "folder"}
    others = inputs | {"clip_weights": tmp_path / "clip", "prompts": tmp_path / "p.csv"}
    for given, path, more, message in (
        (inputs, tmp_path / "x.json", {}, r"x.json: expected a name that ends in .csv"),
        (inputs, tmp_path / "folder.csv", {}, "is a folder; expected the name of a file"),
        (inputs, tmp_path / f"{'x' * 300}.csv", {}, "File name too long"),
        (folder, tmp_path / "folder/x.csv", {}, "lies in --samples .*folder: choose another"),
        (others, tmp_path / "clip/x.csv", {}, "lies in --clip-weights "),
        (others, tmp_path / "p.csv", {}, "would overwrite --prompts "),
    ):
        with pytest.raises(RepaError, match=rf"^--prompt-scores [^\n]*{message}"):
            check(given, prompt_scores=path, **more)
    with pytest.raises(RepaError, match=r"^--output and --prompt-scores are one file"):
        check(inputs, prompt_scores=csv, output=csv)


def test_devices_are_kept(inputs: dict[str, Path]) -> None:
    with pytest.raises(RepaError, match="--output /dev/null exists and is no former result"):
        check(inputs, output="/dev/null")


@pytest.mark.parametrize("name", FLAGS)
def test_a_target_that_cannot_be_written_is_found(
    inputs: dict[str, Path], tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "away").symlink_to(tmp_path / "nowhere")
    (tmp_path / "taken.npz.partial").mkdir()
    for target, message in (
        (tmp_path / "folder", "folder is a folder; expected the name of a file"),
        (tmp_path / "file/x.npz", r"x.npz: no file can be made in .*file \(Not a directory\)"),
        (tmp_path / "file/new/x.npz", r"x.npz: no file can be made in .*file \(Not a directory\)"),
        (tmp_path / "away/x.npz", r"x.npz: no file can be made in .*away \(No such file"),
        (Path("/proc/new/x.npz"), r"x.npz: no file can be made in /proc \("),
        (tmp_path / "taken.npz", "taken.npz.partial is a folder"),
        (tmp_path / f"{'x' * 300}.npz", "File name too long"),
        (tmp_path / f"{'x' * 249}.npz", "File name too long"),
    ):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(RepaError, match=rf"^{FLAGS[name]} [^\n]*{message}[^\n]*$"):
            check(inputs, **{name: target})
        assert sorted(tmp_path.rglob("*")) == before


def test_checking_makes_nothing(inputs: dict[str, Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    check(inputs, output=tmp_path / "new/deep/x.json", save_stats=tmp_path / "new/x.npz")
    check(inputs | {"samples": Path("twemoji-val")}, output=tmp_path / "x.json")
    assert sorted(tmp_path.rglob("*")) == before


def test_names_relative_to_here(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(inputs, output="x.json", save_stats="new/x.npz")
    with pytest.raises(RepaError, match="--output samples.npz would overwrite --samples "):
        check(inputs, output="samples.npz")


def test_folders_are_made_when_writing(tmp_path: Path) -> None:
    with writing("--output", tmp_path / "new/deep/x.json") as file:
        file.write(b"data")
    assert (tmp_path / "new/deep/x.json").read_bytes() == b"data"
    assert os.listdir(tmp_path / "new/deep") == ["x.json"]


@pytest.mark.parametrize("new", ["", "new/deep"])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path, new: str) -> None:
    path = tmp_path / new / "x.json"
    message = r"^--output [^\n]*x.json cannot be written: File too large$"
    with full_disk(), pytest.raises(RepaError, match=message), writing("--output", path) as file:
        file.write(b"x" * 1000)
    assert list(tmp_path.rglob("*")) == []


def test_folders_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    path = tmp_path / "old/new/x.json"
    with full_disk(), pytest.raises(RepaError), writing("--output", path) as file:
        file.write(b"x" * 1000)
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]


def test_writing_atomically_keeps_the_old_file_and_leaves_no_partial_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", b"old")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_atomically(tmp_path / "x", b"x" * 1000)
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]
    write_atomically(tmp_path / "x", json.dumps("new").encode())
    assert (tmp_path / "x").read_bytes() == b'"new"'
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", b"data")
    assert sorted(os.listdir(tmp_path)) == ["folder", "x"]


def test_what_fails_while_it_writes_leaves_no_partial_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
