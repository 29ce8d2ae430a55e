"""What the commands print."""

import pytest

from repa.report.table import print_results


def row(folder: str, weights: str = "ema", step: int = 4, **found: object) -> dict:
    about = {"subject": "model", "name": "run", "run": folder, "weights": weights, "step": step}
    about |= {"checkpoint": f"{folder}/checkpoints/{step}", "depth": 1, "time": 0.5}
    return about | found


def test_columns_are_told_apart(capsys: pytest.CaptureFixture) -> None:
    rows = [row("a/run", top1=0.1), row("b/run", top1=0.2), row("b/run", "raw", top1=0.3)]
    print_results({"kind": "probe", "rows": rows})
    _, _, names, _, numbers = capsys.readouterr().out.splitlines()
    assert names.split()[4:] == ["a/run", "b/run", "b/run,", "raw", "weights"]
    assert numbers.split() == ["block", "1", "0.1000", "0.2000", "0.3000"]


def test_a_run_has_the_column_of_its_last_step(capsys: pytest.CaptureFixture) -> None:
    rows = [row("run", step=step, encoder="e", cknna=step / 10) for step in (2, 4, 3)]
    print_results({"kind": "align", "rows": rows, "spatial": [{"encoder": "e", "lds": 0.25}]})
    printed = capsys.readouterr().out
    assert "step 4" in printed
    assert "step 2" not in printed
    assert "block 1" + " " * 21 + "0.4000" in printed
    assert "tokens of e: lds 0.2500" in printed
