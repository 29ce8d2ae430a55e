from dataclasses import replace
from pathlib import Path

import pytest

from repa.report.comparison import Comparison
from repa.report.overview import Measured, overview
from repa.report.runs import Analysis, RunRecord, read_analysis, read_runs
from repa.report.verdict import NOTHING, verdicts
from report.folders import evaluation, probe_row, write_run


@pytest.fixture
def comparison(runs: list[RunRecord], analysis: Path) -> Comparison:
    return Comparison(runs, read_analysis(analysis, runs))


def titled(rows: list[Measured]) -> dict[str, Measured]:
    return {row.title.replace("\N{NO-BREAK SPACE}", " "): row for row in rows}


def test_the_overview_tells_what_runs_are_cost_and_reach(comparison: Comparison) -> None:
    rows = titled(overview(comparison))
    assert rows["target encoder"].texts == ("none", "dinov2-vit-b")
    assert rows["aligned depth"].texts == ("–", "4")
    assert rows["training steps"].texts == ("400,000", "400,000")
    assert rows["images per second, median"].texts == ("1,280", "1,024")
    assert rows["hours of training"].values == pytest.approx((80_000 / 3600, 100_000 / 3600))
    assert rows["last alignment loss"].values[0] is None
    assert rows["FID (inception, 5,000 samples)"].texts == ("33.0", "24.4")
    accuracy = tuple(probe_row(name, 4)["top1"] for name in ("plain", "repa"))
    assert rows["top-1 accuracy after block 4, t = 0.5"].values == accuracy
    assert "CKNNA with dinov2-vit-b after block 4, t = 0.5" in rows


def test_time_is_told_in_a_unit_that_suits(comparison: Comparison) -> None:
    for seconds, title, text in (
        (30, "seconds", "30"),
        (300, "minutes", "5"),
        (9000, "hours", "2.5"),
    ):
        run = replace(comparison.runs[0], metrics=[{"step": 1, "training_seconds": float(seconds)}])
        rows = titled(overview(replace(comparison, runs=[run])))
        assert rows[f"{title} of training"].texts == (text,)


def test_the_best_value_is_the_better_one_either_way(comparison: Comparison) -> None:
    rows = titled(overview(comparison))
    assert rows["FID (inception, 5,000 samples)"].best() == {1}
    assert rows["images per second, median"].best() == {0}
    assert rows["training steps"].best() == set()
    assert rows["sFID (inception, 5,000 samples)"].best() == set()  # equal


def test_values_that_look_equal_are_not_marked() -> None:
    assert Measured("x", (1.0, 1.0 + 1e-9), ("1", "1"), True).best() == set()
    assert Measured("x", (1.0, None), ("1", "–"), True).best() == set()
    assert Measured("x", (1.0, 2.0, 2.0), ("1", "2", "2"), True).best() == {1, 2}


def test_values_of_different_steps_say_so(comparison: Comparison) -> None:
    plain, repa = comparison.runs
    other = replace(repa, evaluations=[evaluation(100_000, 20.0)])
    rows = titled(overview(replace(comparison, runs=[plain, other])))
    texts = rows["FID (inception, 5,000 samples)"].texts
    assert texts == ("33 at step 400,000", "20 at step 100,000")


def test_rows_written_during_training_serve_where_there_is_no_analysis(
    runs: list[RunRecord],
) -> None:
    rows = titled(overview(Comparison(runs, Analysis())))
    assert rows["top-1 accuracy after block 4, t = 0.5"].values[1] == probe_row("repa", 4)["top1"]


def test_the_verdict_follows_the_numbers_either_way(comparison: Comparison) -> None:
    (found,) = verdicts(comparison)
    assert found.subject == (
        "repa (SiT-B/2 aligned to dinov2-vit-b after block 4) compared with "
        "plain (SiT-B/2 without alignment)"
    )
    assert found.findings[0] == "FID (inception, 5,000 samples): 24.4 instead of 33.0, better."
    assert sum("better" in text for text in found.findings) == 3
    assert found.findings[-1] == (
        "repa reaches plain's final FID 33 (inception, 5,000 samples) at about step 181,000, "
        "2.2 times sooner (between 2.0 and 4.0); that is after 752 min of training, "
        "1.8 times sooner (between 1.6 and 3.2)."
    )

    plain, repa = comparison.runs
    swapped = [replace(plain, evaluations=repa.evaluations),
               replace(repa, evaluations=plain.evaluations)]  # fmt: skip
    turned = replace(comparison, runs=swapped)
    (found,) = verdicts(turned)
    assert found.findings[0] == "FID (inception, 5,000 samples): 33.0 instead of 24.4, worse."
    assert found.findings[-1] == (
        "repa does not reach plain's final FID 24.4 (inception, 5,000 samples) by step 400,000."
    )

    equal = replace(comparison, runs=[plain, replace(repa, evaluations=plain.evaluations)])
    (found,) = verdicts(equal)
    assert found.findings[0] == "FID (inception, 5,000 samples): the same, 33."


def test_a_single_run_is_described(comparison: Comparison) -> None:
    alone = replace(comparison, runs=[comparison.runs[1]])
    (found,) = verdicts(alone)
    assert found.subject.startswith("repa: SiT-B/2 aligned to dinov2-vit-b after block 4, 400,000")
    assert found.findings[0] == "FID (inception, 5,000 samples): 24.4."


def test_where_nothing_was_measured_the_verdict_says_so(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / name) for name in ("a", "b")])
    both = Comparison(runs, Analysis())
    assert verdicts(both)[0].findings == (NOTHING,)
    one = Comparison(runs[:1], Analysis())
    assert verdicts(one)[0].findings == (NOTHING,)


def test_each_run_is_compared_after_the_block_that_it_was_aligned_at(
    comparison: Comparison,
) -> None:
    plain, repa = comparison.runs
    deep = [row | {"name": "deep", "encoder_depth": 8} for row in comparison.analysis.probes[36:72]]
    analysis = Analysis([*comparison.analysis.probes, *deep])
    runs = [plain, repa, replace(repa, name="deep", probes=[], evaluations=[])]
    found = verdicts(Comparison(runs, analysis))
    theirs = {depth: f"{100 * probe_row('plain', depth)['top1']:.1f}%" for depth in (4, 8)}
    assert f"instead of {theirs[4]}, better" in found[0].findings[1]
    assert found[1].findings[0].startswith("Top-1 accuracy after block 8")
    assert f"instead of {theirs[8]}, better" in found[1].findings[0]
    row = titled(overview(Comparison(runs, analysis)))[
        "top-1 accuracy after the aligned block, t = 0.5"
    ]
    assert row.texts[0] == f"{theirs[4]} (block 4)"
    assert row.texts[2].endswith("(block 8)")


def test_every_other_run_is_compared_with_the_plain_one(comparison: Comparison) -> None:
    plain, repa = comparison.runs
    runs = [repa, plain, replace(repa, name="other")]
    three = replace(comparison, runs=runs)
    subjects = [found.subject.split()[0] for found in verdicts(three)]
    assert subjects == ["repa", "other"]


def test_an_analysis_of_other_runs_does_not_hide_what_these_wrote_during_training(
    comparison: Comparison,
) -> None:
    own = [row for run in comparison.runs for row in run.probes]
    assert own
    level = {"subject": "pixels", "name": "pixels", "top1": 0.1, "top5": 0.2}
    others = Analysis([level, probe_row("another", 4)])
    assert list(Comparison(comparison.runs, others).probes) == [level, *own]
    assert list(replace(comparison, analysis=Analysis()).probes) == own
    named = Analysis([probe_row("repa", 4), probe_row("another", 4)])
    assert list(Comparison(comparison.runs, named).probes) == list(named.probes)


def test_repetitions_are_one_column_and_one_verdict(comparison: Comparison) -> None:
    def seeded(run: RunRecord, seed: int, more: float) -> RunRecord:
        lines = [line | {"fid": line["fid"] + more} for line in run.evaluations]
        options = {**run.options, "seed": seed}
        return replace(run, name=f"{run.name}-{seed}", options=options, evaluations=lines)

    runs = [seeded(run, seed, 2.0 * seed) for run in comparison.runs for seed in (0, 1)]
    rows = [row | {"name": f"{row['name']}-{seed}", "top1": row["top1"] - 0.1 * seed}
            for row in comparison.analysis.probes if row["subject"] == "model"
            for seed in (0, 1)]  # fmt: skip
    both = Comparison(runs, Analysis(rows))
    found = titled(overview(both))
    assert found["FID (inception, 5,000 samples)"].texts == (
        "34.0 (33.0 to 35.0)", "25.4 (24.4 to 26.4)"
    )  # fmt: skip
    assert found["target encoder"].texts == ("none", "dinov2-vit-b")
    assert found["training steps"].texts == ("400,000", "400,000")
    top1 = probe_row("repa", 4)["top1"]
    value = found["top-1 accuracy after block 4, t = 0.5"].values[1]
    assert value == pytest.approx(top1 - 0.05)
    (verdict,) = verdicts(both)
    assert verdict.subject == (
        "repa, mean of 2 seeds (SiT-B/2 aligned to dinov2-vit-b after block 4) compared with "
        "plain, mean of 2 seeds (SiT-B/2 without alignment)"
    )
    assert verdict.findings[-1].startswith(
        "repa reaches plain's mean final FID 34 (inception, 5,000 samples) at about step 181,000, "
        "2.2 times sooner, 2.22 to 2.22 over 2 seeds; that is after 752 min of training"
    )
