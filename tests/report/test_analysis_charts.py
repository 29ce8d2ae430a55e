import json
from pathlib import Path

import pytest

from repa.report.analysis_charts import (
    align_charts,
    encoder_table,
    probe_charts,
    shown_depths,
    spatial_table,
    write_align_charts,
    write_probe_charts,
)
from repa.report.charts import Chart
from report.folders import ALIGNED, STEPS, align_row, probe_row


def named(charts: list[Chart]) -> dict[str, Chart]:
    assert len({chart.name for chart in charts}) == len(charts)
    return {chart.name: chart for chart in charts}


@pytest.fixture
def probes(analysis: Path) -> list[dict]:
    return json.loads((analysis / "probe.json").read_text())["rows"]


@pytest.fixture
def alignments(analysis: Path) -> list[dict]:
    return json.loads((analysis / "align.json").read_text())["rows"]


def test_accuracy_over_depth_has_a_line_a_run_with_ceiling_floor_and_aligned_depth(probes) -> None:
    charts = named(probe_charts(probes))
    chart = charts["probe-depth-t0.5"]
    assert [series.name for series in chart.series] == ["plain", "repa"]
    assert chart.series[0].x == tuple(range(1, 13))
    assert chart.series[1].y[3] == probe_row("repa", 4)["top1"]
    found = [(mark.text, mark.x, mark.y) for mark in chart.marks]
    assert found == [
        ("aligned depth 4", 4, None),
        ("dinov2-vit-b (ceiling)", None, 0.74),
        ("pixels (floor)", None, 0.12),
    ]
    assert not chart.aside
    assert charts["probe-depth-t0.1"].aside
    assert charts["probe-depth-t0.9"].aside


def test_accuracy_over_time_is_that_after_the_aligned_block(probes) -> None:
    chart = named(probe_charts(probes))["probe-time"]
    assert "after block 4" in chart.title
    assert chart.series[0].x == (0.1, 0.5, 0.9)
    assert chart.series[0].y[1] == probe_row("plain", ALIGNED)["top1"]


def test_over_training_only_where_there_are_several_steps(probes) -> None:
    assert "probe-step" not in named(probe_charts(probes))
    more = [probe_row("repa", d, step=s) for s in STEPS[:-1] for d in (3, 4)]
    charts = named(probe_charts(probes + more))
    chart = charts["probe-step"]
    assert chart.series[1].x == STEPS
    assert chart.series[1].y[0] == probe_row("repa", 4, step=STEPS[0])["top1"]
    assert chart.series[0].x == (400_000,)
    depth = charts["probe-depth-t0.5"].series[1]  # of the newest step
    assert depth.y[3] == probe_row("repa", 4)["top1"]


def test_the_time_nearest_to_the_middle_stands_for_all() -> None:
    charts = named(probe_charts([probe_row("a", d, time=t) for d in (1, 2) for t in (0.2, 0.6)]))
    assert not charts["probe-depth-t0.6"].aside
    assert charts["probe-depth-t0.2"].aside


def test_raw_weights_are_a_line_of_their_own() -> None:
    rows = [probe_row("a", d) | {"weights": w} for d in (1, 2) for w in ("ema", "raw")]
    (chart,) = probe_charts(rows)
    assert [series.name for series in chart.series] == ["a", "a, raw weights"]


def test_known_names_decide_on_looks_and_order(probes) -> None:
    chart = probe_charts(probes, known=["repa", "other", "plain"])[0]
    assert [(series.name, series.style) for series in chart.series] == [("repa", 0), ("plain", 2)]


def test_runs_aligned_at_several_depths_are_each_shown_at_their_own() -> None:
    rows = [probe_row("a", d) | {"encoder_depth": 2} for d in range(1, 5)]
    rows += [probe_row("b", d) | {"encoder_depth": 9} for d in range(1, 5)]
    rows += [probe_row("plain", d) for d in range(1, 5)]
    assert shown_depths(rows, "top1") == {"a": 2, "b": 4, "plain": 2}  # 4 is nearest to 9
    marks = probe_charts(rows)[0].marks
    assert [mark.text for mark in marks] == ["aligned depth 2 (a)", "aligned depth 9 (b)"]
    over_time = probe_charts([*rows, *(row | {"time": 0.9} for row in rows)])[-1]
    names = [series.name for series in over_time.series]
    assert names == ["a, block 2", "b, block 4", "plain, block 2"]
    assert over_time.title.endswith("after the block in the legend")


def test_without_alignment_the_best_depth_is_shown() -> None:
    rows = [probe_row("plain", d) for d in range(1, 13)]
    assert shown_depths(rows, "top1") == {"plain": 6}


def test_similarities_have_figures_for_each_encoder_and_measure(alignments) -> None:
    other = [row | {"encoder": "clip-vit-l"} for row in alignments if row["subject"] == "model"]
    charts = named(align_charts(alignments + other))
    for encoder in ("dinov2-vit-b", "clip-vit-l"):
        assert not charts[f"cknna-{encoder}-depth-t0.5"].aside
        assert not charts[f"cknna-{encoder}-time"].aside
        for measure in ("cka", "mutual-knn"):
            assert charts[f"{measure}-{encoder}-depth-t0.5"].aside
    assert charts["cknna-dinov2-vit-b-depth-t0.5"].series[0].y[0] == align_row("plain", 1)["cknna"]
    assert charts["cka-dinov2-vit-b-depth-t0.5"].series[0].y[0] == align_row("plain", 1)["cka"]


def test_encoders_are_compared_in_a_table(alignments) -> None:
    table = encoder_table(alignments)
    assert table is not None
    assert table.rows == (("clip-vit-l", "dinov2-vit-b", 0.31, 0.52, 0.28),)
    assert encoder_table([align_row("a", 1)]) is None


def test_spatial_structure_is_a_table() -> None:
    table = spatial_table([{"encoder": "a", "lds": 0.1, "cds": 0.2, "rmsc": 0.3}, {"encoder": "b"}])
    assert table is not None
    assert table.rows == (("a", 0.1, 0.2, 0.3), ("b", None, None, None))
    assert spatial_table([]) is None


def test_without_rows_there_are_no_figures(tmp_path: Path) -> None:
    assert probe_charts([]) == align_charts([]) == []
    write_probe_charts({"rows": []}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_figures_come_beside_their_results(tmp_path: Path, analysis: Path) -> None:
    write_probe_charts(json.loads((analysis / "probe.json").read_text()), tmp_path)
    write_align_charts(json.loads((analysis / "align.json").read_text()), tmp_path)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"probe-depth-t0.5.svg", "probe-time.png", "cknna-dinov2-vit-b-time.csv"} <= names
    assert {"encoders.csv", "spatial.csv"} <= names


def test_runs_of_one_name_have_curves_of_their_own(tmp_path: Path) -> None:
    rows = [
        row | {"run": f"{place}/run", "top1": top1}
        for place, top1 in (("a", 0.25), ("b", 0.5))
        for row in (probe_row("run", 1), probe_row("run", 2))
    ]
    write_probe_charts({"rows": rows}, tmp_path)
    lines = (tmp_path / "figures" / "probe-depth-t0.5.csv").read_text().splitlines()[1:5]
    assert [line.split(",")[::2] for line in lines] == [
        ["a/run", "0.25"], ["a/run", "0.25"], ["b/run", "0.5"], ["b/run", "0.5"]
    ]  # fmt: skip


def test_a_step_below_zero_is_a_step() -> None:
    """Nothing writes it, and nothing breaks of it."""
    assert len(probe_charts([probe_row("run", 1, step=1) | {"step": -1}])) == 1
