import json
from pathlib import Path

import pytest

from repa.errors import RepaError
from repa.report.runs import RunRecord, read_analysis, read_runs
from report.folders import STEPS, VERSIONS, align_row, probe_row, write_lines, write_run


def test_a_run_is_read_whole(runs: list[RunRecord]) -> None:
    plain, repa = runs
    assert (plain.name, plain.is_aligned, plain.last_step) == ("plain", False, 400_000)
    assert (repa.name, repa.is_aligned) == ("repa", True)
    assert repa.options["model"] == "SiT-B/2"
    assert len(repa.metrics) == 40
    assert [line["fid"] for line in plain.evaluations] == [91.2, 61.3, 43.9, 33.0]
    assert list(repa.previews) == list(STEPS)
    assert [start["step"] for start in repa.starts] == [0, 200_000]
    assert repa.results["guided.json"]["samples"]["drawn"]["cfg_scale"] == 1.8
    assert plain.results == {}  # checkpoints' state.json is below, and none of them
    assert plain.versions == VERSIONS
    assert len(repa.probes) == len(repa.alignments) == 4


def test_a_run_needs_no_more_than_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: SiT-B/2\n")
    (run,) = read_runs([tmp_path / "run"])
    assert (run.last_step, run.is_aligned, list(run.metrics)) == (0, False, [])


def test_runs_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / place) for place in ("a/run", "b/run", "b/other")]
    write_lines(folders[0] / "probes.jsonl", [probe_row("run", 3)])
    runs = read_runs(folders)
    assert [run.name for run in runs] == ["a/run", "b/run", "other"]
    assert runs[0].probes[0]["name"] == "a/run"


def test_a_name_stays_in_one_line(tmp_path: Path) -> None:
    (run,) = read_runs([write_run(tmp_path / "a\nb")])
    assert run.name == "a\N{REPLACEMENT CHARACTER}b"


def test_a_coefficient_of_zero_is_no_alignment(tmp_path: Path) -> None:
    (run,) = read_runs([write_run(tmp_path / "run", "dinov2-vit-b", proj_coeff=0)])
    assert not run.is_aligned


def test_lines_of_a_resumed_run_come_in_order(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_lines(folder / "metrics.jsonl", [{"step": 20, "loss": 1}, {"step": 10, "loss": 2}])
    assert [line["step"] for line in read_runs([folder])[0].metrics] == [10, 20]


def test_a_line_that_a_killed_run_left_unfinished_is_ignored(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "evaluations.jsonl").write_text('{"step": 10, "fid": 3.0}\n{"step": 20, "f')
    assert [line["step"] for line in read_runs([folder])[0].evaluations] == [10]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", '{"step": 1}\n{"st\n{"step": 2}\n', "metrics.jsonl is damaged: line 2"),
        ("metrics.jsonl", '{"loss": 1}\n', "metrics.jsonl, line 1: 'step' is None"),
        ("metrics.jsonl", '{"step": NaN}\n', "metrics.jsonl, line 1: 'step' is nan"),
        ("evaluations.jsonl", '{"step": true}\n', "evaluations.jsonl, line 1: 'step' is True"),
        ("probes.jsonl", '{"step": 1}\n', "probes.jsonl, line 1: 'subject' is None"),
        ("fid.json", '{"network": ', "fid.json is damaged, not JSON"),
        ("config.yaml", "a: [", "cannot read .*config.yaml"),
        ("config.yaml", "- a\n", "cannot read .*config.yaml: expected lines"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(text)
    with pytest.raises(RepaError, match=message) as raised:
        read_runs([folder])
    assert "\n" not in str(raised.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepaError, match="there is no such folder"):
        read_runs([tmp_path / "none"])
    with pytest.raises(RepaError, match=r"is no run: it has no config.yaml"):
        read_runs([tmp_path])
    folder = write_run(tmp_path / "run")
    with pytest.raises(RepaError, match="is given twice"):
        read_runs([folder, folder / ".." / "run"])


def test_an_analysis_is_read_with_the_runs_names(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / place) for place in ("a/run", "b/run", "plain")])
    rows = [
        probe_row("run", 1) | {"run": str(tmp_path / "b" / "run")},
        probe_row("plain", 1),  # its path is of another machine
        probe_row("run", 1),  # one of two, and its path tells not which
        probe_row("loose.pt", 1) | {"run": None},
    ]
    content = {"kind": "probe", "settings": {"seed": 0}, "rows": rows}
    (tmp_path / "probe.json").write_text(json.dumps(content))
    analysis = read_analysis(tmp_path, runs)
    assert [row["name"] for row in analysis.probes] == ["b/run", "plain", "run", "loose.pt"]
    assert analysis.settings == {"probe": {"seed": 0}}
    assert list(analysis.alignments) == []


def test_rows_of_another_run_of_the_same_name_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    here, there = (write_run(tmp_path / place) for place in ("here/run", "there/run"))
    runs = read_runs([here])

    def names(*folders: Path) -> list[str]:
        rows = [probe_row("run", 1) | {"run": str(folder)} for folder in folders]
        rows.append(probe_row("run", 1) | {"run": None, "checkpoint": "files/run.pt"})
        content = {"kind": "probe", "settings": {}, "rows": rows}
        (tmp_path / "probe.json").write_text(json.dumps(content))
        return [row["name"] for row in read_analysis(tmp_path, runs).probes]

    lost, gone = Path("lost/run"), Path("gone/run")
    assert names(here, there, lost) == ["run", "there/run", "lost/run", "files/run.pt"]
    assert names(there) == ["there/run", "files/run.pt"]  # it is there: it was not moved here
    assert names(lost) == ["run", "files/run.pt"]  # the one that may have been moved here
    assert names(lost, gone) == ["lost/run", "gone/run", "files/run.pt"]  # nobody knows which


def test_an_analysis_that_is_not_there_is_empty(tmp_path: Path) -> None:
    analysis = read_analysis(tmp_path / "none", [])
    assert not analysis.probes
    assert not analysis.settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "align"}, "is no result of `repa probe`"),
        ({"kind": "probe", "settings": {}}, "probe.json is damaged: 'rows' is missing"),
        ({"kind": "probe", "settings": {}, "rows": [7]}, "probe.json, row 1: expected an object"),
        ({"kind": "probe", "settings": {}, "rows": [align_row("a", 1)]}, "'top1' is None"),
    ],
)
def test_a_damaged_analysis_is_named(tmp_path: Path, content: dict, message: str) -> None:
    (tmp_path / "probe.json").write_text(json.dumps(content))
    with pytest.raises(RepaError, match=message):
        read_analysis(tmp_path, [])
