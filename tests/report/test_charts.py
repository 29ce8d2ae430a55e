import csv
import io
import math

import pytest

from repa.report.charts import (
    Chart,
    Mark,
    Series,
    alike,
    describe,
    file_name,
    numbers,
    points,
    shown,
    styles,
    to_csv,
)

LINES = Chart(
    "name",
    "A title",
    "depth",
    "accuracy",
    (Series("a", (1, 2), (0.123456789, 0.5), 0), Series("b", (2, 3), (0.25, 0.75), 1)),
    (Mark("ceiling", y=0.9), Mark("aligned", x=2)),
    percent="y",
)


def test_every_number_of_a_chart_is_in_its_csv_in_full() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(points(LINES)).decode())))
    assert rows == [
        ["series", "depth", "accuracy", "label"],
        ["a", "1", "0.123456789", ""],
        ["a", "2", "0.5", ""],
        ["b", "2", "0.25", ""],
        ["b", "3", "0.75", ""],
        ["ceiling", "", "0.9", "mark"],
        ["aligned", "2", "", "mark"],
    ]


def test_numbers_of_lines_are_a_column_for_each_series_and_level() -> None:
    table = numbers(LINES)
    assert table.header == ("depth", "a", "b", "ceiling")
    assert table.rows == ((1, 0.123456789, None, 0.9), (2, 0.5, 0.25, 0.9), (3, None, 0.75, 0.9))


def test_where_no_x_is_shared_each_point_is_a_row() -> None:
    series = (Series("a", (1.5,), (3.0,), 0), Series("b", (2.5,), (4.0,), 1))
    chart = Chart("n", "t", "minutes", "FID", series)
    assert numbers(chart) == points(chart)


def test_a_description_tells_ends_extremes_and_marks() -> None:
    chart = Chart("n", "t", "step", "loss", (Series("a", (1, 2, 3), (5.0, 1.0, 2.0), 0),),
                  (Mark("goal", y=1.5), Mark("here", 2, 1.0)))  # fmt: skip
    text = describe(chart)
    assert text.startswith("Line chart: loss over step.")
    assert "a: 5 at 1, 2 at 3; lowest 1 at 2, highest 5 at 1." in text
    assert "Horizontal line at 1.5: goal." in text
    assert "Ring, 1 at 2: here." in text
    assert "12.3% at 1, 50.0% at 2" in describe(LINES)


def test_a_description_skips_what_is_not_finite() -> None:
    series = Series("a", (1, 2), (math.nan, 2.0), 0)
    assert "a: 2 at 2." in describe(Chart("n", "t", "x", "y", (series,)))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (400_000, "400,000"), (1024.0, "1,024"), (0.25, "0.25"), (0.123456, "0.1235"),
     (0, "0"), (0.0, "0"), (1e-6, "1e-06"), (12345.6, "12,346"), (math.nan, "nan"), ("x", "x"),
     (True, "True"), ([1], "[1]")],
)  # fmt: skip
def test_numbers_are_shown_with_four_digits_that_count(value, text: str) -> None:
    assert shown(value) == text


def test_numbers_side_by_side_have_the_same_decimals() -> None:
    assert alike([33.0, 24.4, None, 7]) == ["33.0", "24.4", "–", "7"]
    assert alike([0.5, 0.25], percent=True) == ["50.0%", "25.0%"]
    assert alike([1e-6, 0.5]) == ["1e-06", "0.5"]


def test_file_names_are_plain() -> None:
    assert file_name("probe", "DINOv2 <b>/../x", 0.5) == "probe-dinov2-b-..-x-0.5"
    assert file_name("../..") == "figure"


def test_known_names_keep_their_styles() -> None:
    assert styles(["b", "c"], known=["a", "b"]) == {"a": 0, "b": 1, "c": 2}
