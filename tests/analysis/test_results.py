"""Rows on disk: added to, replaced when the weights are others, refused when the settings are."""

import csv
import json
import threading
from pathlib import Path

import pytest

from repa.analysis.results import Results, read_results
from repa.errors import RepaError
from repa.files import locked

SETTINGS = {"train": "64 images", "seed": 0}


def row(depth: int, fingerprint: str = "a" * 16, checkpoint: str = "run/1", **found) -> dict:
    about = {"subject": "model", "name": "run", "checkpoint": checkpoint, "weights": "ema"}
    return about | {"fingerprint": fingerprint, "depth": depth, "time": 0.5} | found


def open_results(folder: Path, overwrite: bool = False, **settings) -> Results:
    return Results(folder, "probe", SETTINGS | settings, overwrite)


def test_a_later_call_finds_the_rows_and_adds_to_them(tmp_path: Path) -> None:
    first = open_results(tmp_path / "new")
    first.add([row(1, top1=0.25)])
    later = open_results(tmp_path / "new")
    assert row(1) in later
    assert row(2) not in later
    later.add([row(2, top1=0.5)])
    content = read_results(tmp_path / "new", "probe")
    assert content is not None
    assert content == later.content()
    assert [(r["depth"], r["top1"]) for r in content["rows"]] == [(1, 0.25), (2, 0.5)]
    assert (content["kind"], content["settings"]) == ("probe", SETTINGS)


def test_numbers_are_in_a_spreadsheet_too(tmp_path: Path) -> None:
    results = open_results(tmp_path)
    results.add([{"subject": "pixels", "name": "pixels", "top1": 0.125}, row(1, top1=0.25)])
    with (tmp_path / "probe.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["name"], line["depth"], line["top1"]) for line in lines] == [
        ("pixels", "", "0.125"),
        ("run", "1", "0.25"),
    ]


def test_rows_about_the_same_are_replaced(tmp_path: Path) -> None:
    results = open_results(tmp_path)
    results.add([row(1, top1=0.25), row(1, checkpoint="run/2", top1=0.5)])
    results.add([row(1, top1=0.75)])
    assert [(r["checkpoint"], r["top1"]) for r in results.rows] == [("run/2", 0.5), ("run/1", 0.75)]


def test_rows_of_a_checkpoint_that_was_trained_anew_are_dropped(tmp_path: Path) -> None:
    results = open_results(tmp_path)
    results.add([row(1), row(2), row(1, checkpoint="run/2"), {"subject": "pixels", "name": "p"}])
    results.add([row(2, fingerprint="b" * 16)])
    kept = [
        (r.get("checkpoint"), r.get("depth"), r.get("fingerprint", "")[:1]) for r in results.rows
    ]
    assert kept == [("run/2", 1, "a"), (None, None, ""), ("run/1", 2, "b")]


def test_rows_of_another_path_replace_those_of_a_file_that_tells_none(
    tmp_path: Path,
) -> None:
    open_results(tmp_path).add([row(1, path_type="linear"), row(2, path_type="linear")])
    later = open_results(tmp_path)
    assert row(1, path_type="linear") in later
    assert row(1, path_type="cosine") not in later
    later.add([row(1, path_type="cosine")])
    assert [r["path_type"] for r in later.rows] == ["cosine"]


def test_calls_at_the_same_time_lose_none_of_each_others_rows(tmp_path: Path) -> None:
    one, other = open_results(tmp_path), open_results(tmp_path)
    one.add([row(1)])
    other.add([row(2)])
    one.add([row(3)])
    assert [r["depth"] for r in open_results(tmp_path).rows] == [1, 2, 3]
    assert row(2) not in one  # what is skipped was decided at the start, on all processes alike


def test_a_call_waits_while_another_one_writes(tmp_path: Path) -> None:
    thread = threading.Thread(target=open_results(tmp_path).add, args=([row(1)],))
    with locked(tmp_path / ".lock"):
        thread.start()
        thread.join(timeout=0.2)
        assert thread.is_alive()
        assert not (tmp_path / "probe.json").exists()
    thread.join(timeout=30)
    assert row(1) in open_results(tmp_path)


def test_a_call_of_other_settings_at_the_same_time_is_refused(tmp_path: Path) -> None:
    one, other = open_results(tmp_path), open_results(tmp_path, seed=1)
    one.add([row(1)])
    with pytest.raises(RepaError, match=r"other settings \(different: seed\)"):
        other.add([row(2)])


def test_other_settings_are_refused_unless_they_shall_replace_the_first(tmp_path: Path) -> None:
    open_results(tmp_path).add([row(1)])
    with pytest.raises(RepaError, match=r"other settings \(different: seed\): .*--overwrite"):
        open_results(tmp_path, seed=1)
    anew = open_results(tmp_path, overwrite=True, seed=1)
    assert anew.rows == []
    anew.add([row(2)])
    assert [r["depth"] for r in open_results(tmp_path, seed=1).rows] == [2]
    assert len(open_results(tmp_path, overwrite=True, seed=1).rows) == 1  # the same are kept


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"kind": "align", "settings": {}, "rows": []}', b'{"kind": "probe"}',
     b'{"kind": "probe", "settings": {}, "rows": [{"top1": 1}]}',
     b'{"kind": "probe", "settings": {}, "rows": [1]}', b"\xff"],
)  # fmt: skip
def test_a_file_of_another_origin_is_named_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "probe.json").write_bytes(content)
    with pytest.raises(RepaError, match=r"probe.json is no result of `repa probe`.*move it away"):
        open_results(tmp_path, overwrite=True)
    assert (tmp_path / "probe.json").read_bytes() == content


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepaError, match="--output-dir .*file"):
        open_results(tmp_path / "file").add([row(1)])


def test_a_number_that_is_none_is_not_written(tmp_path: Path) -> None:
    results = open_results(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        results.add([row(1, top1=float("nan"))])
    assert not (tmp_path / "probe.json").exists()
    assert json.loads(json.dumps(results.rows)) == []
