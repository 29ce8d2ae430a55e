import pytest

from repa.report.crossings import Crossing, Factor, compare, crossing


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ({10: 8.0, 20: 4.0, 30: 1.0}, Crossing(15.0, 10, 20)),
        ({30: 1.0, 20: 4.0, 10: 8.0}, Crossing(15.0, 10, 20)),
        ({10: 8.0, 20: 6.0}, Crossing(20, 10, 20)),
        ({10: 6.0, 20: 1.0}, Crossing(10, None, 10)),
        ({10: 8.0, 20: 4.0, 30: 9.0, 40: 0.0}, Crossing(15.0, 10, 20)),
        ({10: 8.0, 20: 6.1}, None),
    ],
)
def test_a_curve_crosses_on_the_line_between_two_points(points, expected) -> None:
    assert crossing(points, 6.0) == expected


def test_the_last_step_of_the_baseline_is_no_bracket_but_an_earlier_one_is() -> None:
    run = {10: 8.0, 20: 4.0}
    assert compare({50: 9.0, 60: 6.0}, run).factor == Factor(4.0, 3.0, 6.0)
    assert compare({40: 9.0, 50: 3.0, 60: 6.0}, run).factor == Factor(3.0, 2.0, 5.0)


def test_later_is_the_inverse_with_its_ends_turned_round() -> None:
    assert Factor(0.5, 0.25, None).inverse == Factor(2.0, None, 4.0)


@pytest.mark.parametrize(
    ("factor", "bound"),
    [(Factor(2.0, 2.0, None), "at least"), (Factor(2.0, None, 2.0), "at most"),
     (Factor(2.0, 1.0, None), ""), (Factor(2.0, 2.0, 2.0), "")],
)  # fmt: skip
def test_a_value_at_the_only_known_end_is_a_bound(factor: Factor, bound: str) -> None:
    assert factor.bound == bound
