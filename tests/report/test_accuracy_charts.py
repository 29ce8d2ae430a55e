from dataclasses import replace

import pytest

from repa.report.accuracy_charts import accuracy_charts
from repa.report.runs import RunRecord
from report.folders import STEPS, probe_row


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
