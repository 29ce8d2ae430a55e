from dataclasses import replace

import pytest

from repa.report.runs import RunRecord
from repa.report.training_charts import accuracy_charts, evaluation_charts, training_charts
from report.folders import FIDS, STEPS, evaluation, probe_row


def test_losses_and_speed_are_drawn_for_runs_that_have_them(runs: list[RunRecord]) -> None:
    charts = {chart.name: chart for chart in training_charts(runs)}
    both = charts["training-denoising-loss"]
    assert [series.name for series in both.series] == ["plain", "repa"]
    assert both.series[0].x[0] == 10_000
    (aligned,) = charts["training-alignment-loss"].series
    assert (aligned.name, aligned.style) == ("repa", 1)  # looks as everywhere
    assert len(charts["training-images-per-second"].series) == 2


def test_the_distance_shows_where_the_baselines_is_reached(runs: list[RunRecord]) -> None:
    chart = evaluation_charts(runs)[0]
    assert chart.title == "FID over training (inception, 5,000 samples)"
    assert chart.series[0].y == FIDS["plain"]
    level, ring = chart.marks
    assert (level.text, level.x, level.y) == ("plain's final FID 33", None, 33.0)
    assert (ring.x, ring.y) == (200_000, 30.9)
    assert ring.text.endswith("at step 200,000, 2.0 times sooner")


def test_a_run_that_never_gets_there_has_a_remark_without_a_place(runs: list[RunRecord]) -> None:
    worse = replace(runs[1], evaluations=[evaluation(100_000, 50.0)])
    mark = evaluation_charts([runs[0], worse])[0].marks[1]
    assert (mark.x, mark.y) == (None, None)
    assert mark.text == "repa does not reach plain's final FID 33 by step 100,000"


def test_each_metric_and_network_has_its_figure(runs: list[RunRecord]) -> None:
    more = [{"step": 5, "network": "efficientnet-lite2", "samples": 80, "frechet_distance": 400.0}]
    charts = evaluation_charts([replace(runs[0], evaluations=[*runs[0].evaluations, *more])])
    assert [chart.name for chart in charts] == [
        "evaluation-fid-inception-5000",
        "evaluation-sfid-inception-5000",
        "evaluation-precision-inception-5000",
        "evaluation-recall-inception-5000",
        "evaluation-frechet-distance-efficientnet-lite2-80",
    ]
    assert [chart.aside for chart in charts] == [False, True, True, True, False]
    assert all(chart.marks == () for chart in charts)  # a single run arrives nowhere


def test_checkpoints_are_points_where_step_and_depth_agree(runs: list[RunRecord]) -> None:
    rows = [row for run in runs for row in run.probes if row["step"] != 100_000]
    (chart,) = accuracy_charts(runs, rows)
    plain, repa = chart.series
    assert repa.labels == ("50,000", "200,000", "400,000")
    assert repa.y == (78.2, 30.9, 24.4)
    assert repa.x[-1] == probe_row("repa", 4)["top1"]
    assert plain.x[-1] == probe_row("plain", 4)["top1"]
    assert (chart.kind, chart.percent) == ("scatter", "x")


def test_raw_weights_are_not_what_was_evaluated(runs: list[RunRecord]) -> None:
    rows = [row | {"weights": "raw"} for run in runs for row in run.probes]
    assert accuracy_charts(runs, rows) == []


@pytest.mark.parametrize(("second", "count"), [("clip-vit-l", 2), ("dinov2-vit-b", 0)])
def test_two_target_encoders_make_a_figure(runs: list[RunRecord], second: str, count: int) -> None:
    other = replace(runs[1], name="other", options={**runs[1].options, "enc_type": second})
    rows = [
        {"subject": "encoder", "name": name, "top1": top1}
        for name, top1 in (("dinov2-vit-b", 0.7), ("clip-vit-l", 0.6))
    ]
    charts = accuracy_charts([*runs, other], rows)
    points = [(s.labels, s.x, s.y) for chart in charts for s in chart.series]
    assert (
        points
        == [
            (("dinov2-vit-b",), (0.7,), (24.4,)),
            (("clip-vit-l",), (0.6,), (24.4,)),
        ][:count]
    )
    assert STEPS[-1] == 400_000
