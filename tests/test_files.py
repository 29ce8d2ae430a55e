from pathlib import Path

import pytest

from evaluation.disk import full_disk
from repa import files
from repa.errors import RepaError
from repa.files import append_json, read_json_lines


def test_the_line_that_a_killed_run_left_unfinished_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", ['{"ste', "7", "\xff"])
def test_another_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line.encode("latin-1") + b'\n{"step": 2}\n')
    with pytest.raises(RepaError, match=r"x.jsonl is damaged: line 2"):
        read_json_lines(path)


def test_a_whole_last_line_without_a_newline_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"step": 1}')
    assert read_json_lines(path) == [{"step": 1}]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RepaError, match="cannot read .*x.jsonl"):
        read_json_lines(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ("", []),
        ('{"step": 1}\n', [1]),
        ('{"step": 1}', [1]),  # someone's editor
        ('{"step": 1}\n{"st', [1]),  # a killed process
        ('{"st', []),
    ],
)
def test_a_line_is_added_to_whole_ones(tmp_path: Path, before: str, kept: list[int]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(before)
    append_json(path, {"step": 7})
    append_json(path, {"step": 8})
    assert [line["step"] for line in read_json_lines(path)] == [*kept, 7, 8]
    assert path.read_text().endswith('{"step":7}\n{"step":8}\n')


def test_a_line_that_does_not_fit_on_the_disk_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append_json(path, {"step": 1})
    with full_disk(), pytest.raises(OSError, match="too large"):
        append_json(path, {"images": list(range(100))})
    append_json(path, {"step": 2})
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


def test_where_files_cannot_be_locked_nothing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks on this drive")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with files.locked(tmp_path / "lock"), files.locked(tmp_path / "lock"):
        pass
    monkeypatch.setattr(files, "fcntl", None)  # Windows
    with files.locked(tmp_path / "lock"), files.locked(tmp_path / "lock"):
        pass
