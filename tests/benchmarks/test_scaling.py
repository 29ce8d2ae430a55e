"""The benchmark of growth: the lines it draws, and that it runs."""

import json
import sys
from pathlib import Path
from timeit import timeit

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def test_growth_of_known_costs() -> None:
    from scaling import growth

    sizes = [4, 8, 16, 32]
    even = growth(sizes, [0.5 * n for n in sizes])
    assert even["exponent"] == pytest.approx(1)
    assert even["fixed_share"] == pytest.approx(0, abs=1e-9)
    squared = growth(sizes, [0.5 * n**2 for n in sizes])
    assert squared["exponent"] == pytest.approx(2)
    assert squared["seconds_of_each_further"] == pytest.approx([6, 12, 24])
    with_start = growth(sizes, [8 + 0.25 * n for n in sizes])
    assert with_start["exponent"] < 1
    assert with_start["fixed_share"] == pytest.approx(8 / 16)
    assert with_start["seconds_of_each_further"] == pytest.approx([0.25] * 3)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The benchmark, its steps taken in this process."""
    import scaling
    from processes import Make, Measured

    def here(ways: dict[str, Make], rounds: int) -> dict[str, Measured]:
        steps = {name: make() for name, make in ways.items()}
        return {
            name: Measured(0, [timeit(step, number=1) for _ in range(rounds)], 0)
            for name, step in steps.items()
        }

    monkeypatch.setattr(scaling, "in_turn", here)
    monkeypatch.setattr(sys, "argv", ["scaling.py", *arguments])
    scaling.main()


def test_it_measures_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    sizes = ["--batches", "2", "1", "--depths", "1", "2", "--width=64", "--rounds=1"]
    call(monkeypatch, *sizes, f"--json={out}")
    result = json.loads(out.read_text())
    printed = capsys.readouterr().out
    for name in ("batch", "depth"):
        assert result[name]["sizes"] == [1, 2]
        assert all(seconds > 0 for seconds in result[name]["seconds"])
        assert f"exponent {result[name]['exponent']:.2f}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batches", "4"], "--batches: a line needs two different sizes"),
        (["--depths", "3", "3"], "--depths: a line needs two different sizes"),
        (["--width=100"], "--width 100: expected a multiple of 64"),
    ],
)
def test_sizes_that_say_nothing_are_refused(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, *arguments)
    assert message in capsys.readouterr().err
