from repa.report.groups import groups_of
from repa.report.runs import RunRecord
from repa.report.training_charts import training_charts


def test_losses_and_speed_are_drawn_for_runs_that_have_them(runs: list[RunRecord]) -> None:
    charts = {chart.name: chart for chart in training_charts(groups_of(runs))}
    both = charts["training-denoising-loss"]
    assert [series.name for series in both.series] == ["plain", "repa"]
    assert both.series[0].x[0] == 10_000
    (aligned,) = charts["training-alignment-loss"].series
    assert (aligned.name, aligned.style) == ("repa", 1)  # looks as everywhere
    assert len(charts["training-images-per-second"].series) == 2
