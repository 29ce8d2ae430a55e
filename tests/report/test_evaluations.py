from pathlib import Path

import pytest

from repa.report.evaluations import evaluations, protocols, values
from repa.report.runs import read_runs
from report.folders import evaluation, result, write_lines, write_results, write_run

LITE2 = "efficientnet-lite2, 10,000 samples"
OTHER_DRAWN = result(100, 3.0)["samples"] | {"drawn": {"step": 100, "mode": "ode", "num_steps": 9}}
OTHER_FILE = {"path": "elsewhere/train", "sha256": "beef" * 16}


@pytest.mark.parametrize(
    ("results", "labels"),
    [
        ([result(100, 3.0), result(200, 2.0, neighbors=5)], [LITE2]),
        ([result(100, 3.0), result(100, 3.0, network="clip")], [LITE2, "clip, 10,000 samples"]),
        ([result(100, 3.0), result(100, 3.0, "test")],
         [f"{LITE2}, reference train", f"{LITE2}, reference test"]),
        ([result(100, 3.0), result(100, 3.0, samples=OTHER_DRAWN)],
         [f"{LITE2}, SDE in 50 steps, no guidance", f"{LITE2}, ODE in 9 steps"]),
        ([result(100, 3.0), result(100, 3.0, network_weights="fedcba9876543210")],
         [f"{LITE2}, network's weights 01234567", f"{LITE2}, network's weights fedcba98"]),
        ([result(100, 3.0), result(100, 3.0) | {"reference": OTHER_FILE}],
         [f"{LITE2}, reference's checksum train", f"{LITE2}, reference's checksum beefbeef"]),
        # Two that differ in reference and sampler are told apart by one of them.
        ([result(100, 3.0), result(100, 3.0, "test", samples=OTHER_DRAWN)],
         [f"{LITE2}, reference train", f"{LITE2}, reference test"]),
    ],
)  # fmt: skip
def test_only_equal_evaluations_are_alike_and_only_what_differs_is_told(
    tmp_path: Path, results: list[dict], labels: list[str]
) -> None:
    folder = write_run(tmp_path / "run")
    write_results(folder, results)
    (run,) = read_runs([folder])
    found = protocols([run])
    assert [str(protocol) for protocol in found] == labels
    assert sum(len(evaluations(run, protocol)) for protocol in found) == len(results)


def test_what_was_measured_during_training_is_not_mixed_with_what_was_after(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    line = evaluation(100, 1.0, network="efficientnet-lite2", samples=10_000)
    write_lines(folder / "evaluations.jsonl", [line])
    write_results(folder, [result(100, 3.0)])
    found = protocols(read_runs([folder]))
    assert set(map(str, found)) == {
        f"{LITE2}, evaluated during training", f"{LITE2}, reference train"
    }  # fmt: skip


def test_values_that_are_no_numbers_are_left_out() -> None:
    lines = [{"step": s, "fid": v} for s, v in enumerate((1.5, float("nan"), True, "2", None, 3))]
    assert values([*lines, {"step": 9}], "fid") == {0: 1.5, 5: 3}
