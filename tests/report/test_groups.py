from dataclasses import replace
from pathlib import Path

import pytest

from repa.report.comparison import Comparison
from repa.report.groups import baseline_of, groups_of
from repa.report.runs import Analysis, RunRecord, read_runs
from report.folders import align_row, evaluation, probe_row, write_lines, write_run


def repeated(folder: Path, *names: str, **options) -> list[RunRecord]:
    """Runs of these names, each of another seed."""
    folders = [write_run(folder / n, seed=s, **options) for s, n in enumerate(names)]
    return read_runs(folders)


def test_runs_that_differ_in_seed_and_place_only_are_a_group(tmp_path: Path) -> None:
    runs = repeated(tmp_path, "a", "b", output_dir="here") + repeated(tmp_path, "c", batch_size=8)
    runs[1] = replace(runs[1], options={**runs[1].options, "output_dir": "there"})
    found = groups_of([runs[2], *runs[:2]])
    assert [[run.name for run in group.runs] for group in found] == [["c"], ["a", "b"]]
    assert found[0].mean is runs[2]


def test_runs_of_one_seed_are_no_repetitions(tmp_path: Path) -> None:
    one, other, third = repeated(tmp_path, "a", "b", "c")
    again = replace(other, name="again", options=one.options)
    assert [group.name for group in groups_of([one, again, third])] == ["a", "again", "c"]


@pytest.mark.parametrize(
    ("names", "name"),
    [(("repa-seed0", "repa-seed1"), "repa"), (("repa_s0", "repa_s10"), "repa"),
     (("repa-b-2-0", "repa-b-2-1"), "repa-b-2"), (("repa21", "repa22"), "repa"),
     (("repa", "repa-2"), "repa"), (("seed=0", "seed=1"), "seed=0"), (("x", "y"), "x"),
     (("runs-0", "runs-1"), "runs")],
)  # fmt: skip
def test_a_group_is_called_what_its_runs_have_in_common(tmp_path: Path, names, name: str) -> None:
    (group,) = groups_of(repeated(tmp_path, *names))
    assert group.name == name
    assert group.mean.name == f"{name}, mean of 2 seeds"


def test_groups_whose_names_would_be_the_same_are_told_apart(tmp_path: Path) -> None:
    runs = repeated(tmp_path, "a-0", "a-1") + repeated(tmp_path, "a-2", "a-3", batch_size=8)
    assert [group.name for group in groups_of(runs)] == ["a-0", "a-2"]


def test_a_mean_is_where_all_have_a_value_that_have_any(tmp_path: Path) -> None:
    runs = repeated(tmp_path, "a-0", "a-1", "a-2")
    fids = ({100: 3.0, 200: 1.0}, {100: 5.0, 200: 2.0, 300: 1.0}, {})
    for run, own in zip(runs, fids, strict=True):
        lines = [evaluation(step, fid, note="x") for step, fid in own.items()]
        write_lines(run.folder / "evaluations.jsonl", lines)
    write_lines(runs[0].folder / "metrics.jsonl", [{"step": 10, "loss": 1.0, "extra": 1.0}])
    write_lines(runs[1].folder / "metrics.jsonl", [{"step": 10, "loss": 2.0}])
    write_lines(runs[2].folder / "metrics.jsonl", [{"step": 10, "loss": 6.0}])
    (group,) = groups_of(read_runs([run.folder for run in runs]))
    found = [(line["step"], line["fid"], line["note"]) for line in group.mean.evaluations]
    assert found == [(100, 4.0, "x"), (200, 1.5, "x")]
    assert list(group.mean.metrics) == [{"step": 10, "loss": 3.0}]


def test_rows_about_repetitions_are_averaged_and_others_kept(tmp_path: Path) -> None:
    runs = [*repeated(tmp_path, "a-0", "a-1"), *repeated(tmp_path, "b", batch_size=8)]
    level = {"subject": "pixels", "name": "pixels", "top1": 0.1, "top5": 0.2}
    top1 = {"a-0": 0.2, "a-1": 0.4, "b": 0.9}
    probes = [level, *(probe_row(n, d) | {"top1": top1[n]} for n in top1 for d in (1, 2))]
    alignments = [align_row(n, 1) | {"cknna": t} for n, t in (("a-0", 0.1), ("a-1", 0.3))]
    means = Comparison(runs, Analysis(probes, alignments)).means
    found = [(row["name"], row.get("depth"), row["top1"]) for row in means.probes]
    name = "a, mean of 2 seeds"
    assert found == [("pixels", None, 0.1), ("b", 1, 0.9), ("b", 2, 0.9),
                     (name, 1, pytest.approx(0.3)), (name, 2, pytest.approx(0.3))]  # fmt: skip
    assert [row["cknna"] for row in means.alignments] == [pytest.approx(0.2)]
    alone = Comparison(runs[1:], Analysis(probes))
    assert alone.means is alone


def test_the_plain_group_is_the_baseline_wherever_it_stands(runs: list[RunRecord]) -> None:
    plain, repa = runs
    assert baseline_of(groups_of([repa, plain])).runs == (plain,)
    assert baseline_of(groups_of([repa])).runs == (repa,)
    assert baseline_of(groups_of([repa, plain, replace(plain, name="other")])).runs == (plain,)
