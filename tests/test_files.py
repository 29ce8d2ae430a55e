from pathlib import Path

import pytest

from repa import files
from repa.errors import RepaError
from repa.files import read_json_lines


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
