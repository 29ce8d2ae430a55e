import json
from pathlib import Path

import pytest

from repa.errors import RepaError
from repa.report.results import read_results
from repa.report.runs import read_runs
from report.folders import evaluation, result, write_lines, write_results, write_run

GOOD = result(100, 3.0)


def test_results_of_checkpoints_join_what_was_evaluated_during_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run")
    write_lines(folder / "evaluations.jsonl", [evaluation(150, 3.0)])
    write_results(folder, [result(200, 2.0), result(100, 4.0), result(0, 9.0)])
    (run,) = read_runs([folder])
    assert [line["step"] for line in run.evaluations] == [0, 100, 150, 200]
    assert run.evaluations[3]["frechet_distance"] == 2.0
    assert run.results == {}  # those beside config.yaml
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "content",
    [
        "{", "[1]", "null", "[" * 10_000, "{}",
        *(json.dumps(GOOD | more) for more in (
            {"network": None}, {"reference": {}}, {"reference": "x"}, {"samples": 5},
            {"samples": {"count": 5}},
            {"samples": {"count": 5, "drawn": {}}},
            {"samples": {"count": 5, "drawn": {"step": "100"}}},
            {"samples": {"count": 5, "drawn": {"step": -1}}},
            {"samples": {"count": 5, "drawn": {"step": True}}},
            {"samples": {"count": None, "drawn": {"step": 100}}},
        )),
    ],
)  # fmt: skip
def test_what_is_damaged_or_foreign_is_skipped_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    folder = write_run(tmp_path / "run")
    write_results(folder, [GOOD])
    (folder / "evaluations" / "other.json").write_text(content)
    (run,) = read_runs([folder])
    assert [line["step"] for line in run.evaluations] == [100]
    error = capsys.readouterr().err
    assert error.startswith("warning: skipped ")
    assert "other.json" in error
    assert error.count("\n") == 1


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(RepaError, match=r"^cannot read .*a\.json: Is a directory$"):
        read_results(tmp_path)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "\xff"])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content, "latin-1")
    with pytest.raises(RepaError, match=r"a\.json is damaged, not JSON: "):
        read_results(tmp_path)
