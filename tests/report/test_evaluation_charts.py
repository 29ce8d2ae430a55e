from dataclasses import replace
from pathlib import Path

import pytest

from repa.report.evaluation_charts import evaluation_charts
from repa.report.groups import groups_of
from repa.report.runs import RunRecord, read_runs
from report.folders import FIDS, evaluation, result, write_results, write_run


def test_the_distance_shows_where_the_baselines_is_reached(runs: list[RunRecord]) -> None:
    chart = evaluation_charts(groups_of(runs))[0]
    assert chart.title == "FID over training (inception, 5,000 samples)"
    assert chart.series[0].y == FIDS["plain"]
    level, ring = chart.marks
    assert (level.text, level.x, level.y) == ("plain's final FID 33", None, 33.0)
    assert ring.x == pytest.approx(100_000 + 100_000 * 8.7 / 10.8)
    assert ring.y == 33.0
    assert ring.text.endswith("at about step 181,000, 2.2 times sooner (between 2.0 and 4.0)")


def test_a_run_that_never_gets_there_has_a_remark_without_a_place(runs: list[RunRecord]) -> None:
    worse = replace(runs[1], evaluations=[evaluation(100_000, 50.0)])
    mark = evaluation_charts(groups_of([runs[0], worse]))[0].marks[1]
    assert (mark.x, mark.y) == (None, None)
    assert mark.text == "repa does not reach plain's final FID 33 by step 100,000"


def test_each_metric_and_network_has_its_figure(runs: list[RunRecord]) -> None:
    more = [{"step": 5, "network": "efficientnet-lite2", "samples": 80, "frechet_distance": 400.0}]
    run = replace(runs[0], evaluations=[*runs[0].evaluations, *more])
    charts = evaluation_charts(groups_of([run]))
    assert [chart.name for chart in charts] == [
        "evaluation-fid-inception-5000",
        "evaluation-sfid-inception-5000",
        "evaluation-precision-inception-5000",
        "evaluation-recall-inception-5000",
        "evaluation-frechet-distance-efficientnet-lite2-80",
    ]
    assert [chart.aside for chart in charts] == [False, True, True, True, False]
    assert all(chart.marks == () for chart in charts)  # a single run arrives nowhere


def test_the_distance_over_time_is_a_figure_where_runs_are_compared(runs: list[RunRecord]) -> None:
    chart = evaluation_charts(groups_of(runs))[1]
    assert (chart.name, chart.x_label) == (
        "evaluation-time-fid-inception-5000", "training time (minutes)"
    )  # fmt: skip
    plain, repa = chart.series  # 5 and 4 steps a second
    assert plain.x[-1] == pytest.approx(400_000 / 5 / 60)
    assert repa.x[-1] == pytest.approx(400_000 / 4 / 60)
    assert repa.y == FIDS["repa"]
    level, ring = chart.marks
    assert ring.x == pytest.approx(181_000 / 4 / 60, rel=0.01)
    assert (ring.y, level.y) == (33.0, 33.0)
    assert "min of training, 1.8 times sooner (between 1.6 and 3.2)" in ring.text
    assert "If features were cached before training" in chart.note
    unknown = [runs[0], replace(runs[1], metrics=[])]
    assert not any("time" in chart.name for chart in evaluation_charts(groups_of(unknown)))


def test_repetitions_are_faint_and_their_mean_is_not(tmp_path: Path) -> None:
    folders = []
    for name, enc_type in (("plain", "none"), ("repa", "dinov2-vit-b")):
        for seed in (0, 1):
            folders.append(write_run(tmp_path / f"{name}-s{seed}", enc_type, seed=seed))
            both = [("train", 0.0), ("test", 1.0)]
            at = [(100, 40.0 + 2 * seed), (200, 30.0), (300, 20.0)]
            at = at if (name, seed) != ("repa", 1) else at[:2]
            write_results(folders[-1], [result(s, d + m, ref) for ref, m in both for s, d in at])
    charts = {chart.name: chart for chart in evaluation_charts(groups_of(read_runs(folders)))}
    start = "evaluation-frechet-distance-efficientnet-lite2-10000-reference"
    assert {f"{start}-train", f"{start}-test"} <= charts.keys()
    chart = charts[f"{start}-train"]
    assert chart.title == (
        "Fréchet distance over training (efficientnet-lite2, 10,000 samples, reference train)"
    )
    assert [(s.name, s.style, s.is_faint) for s in chart.series] == [
        ("plain-s0", 0, True), ("plain-s1", 0, True), ("plain, mean of 2 seeds", 0, False),
        ("repa-s0", 1, True), ("repa-s1", 1, True), ("repa, mean of 2 seeds", 1, False),
    ]  # fmt: skip
    assert chart.series[2].y == (41.0, 30.0, 20.0)
    assert chart.series[5].x == (100, 200)  # where both are
    assert chart.series[3].x == (100, 200, 300)
    assert chart.marks[0].text == "plain's mean final Fréchet distance 20"
