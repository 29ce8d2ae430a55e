import io
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from repa.errors import RepaError
from repa.report import figures
from repa.report.charts import Chart, Mark, Series
from repa.report.figures import COLORS, DASHES, MARKERS, inline_svg, png, svg, write_chart

SVG = "{http://www.w3.org/2000/svg}"


def chart(names: tuple[str, ...] = ("plain", "repa"), **more) -> Chart:
    series = tuple(Series(name, (1, 2, 3), (0.1, 0.2 + i, 0.3), i) for i, name in enumerate(names))
    marks = (Mark("goal", y=0.2), Mark("aligned depth 2", x=2), Mark("reached", 2, 0.2, 1))
    return Chart("a-chart", "Title", "depth", "accuracy", series, marks, **more)


def texts(drawn: str) -> list[str]:
    return [
        "".join(element.itertext()) for element in ElementTree.fromstring(drawn).iter(SVG + "text")
    ]


def luminance(color: str) -> float:
    """WCAG's, of #rrggbb."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_same_chart_gives_the_same_bytes() -> None:
    drawn = []
    for _ in range(2):
        drawn.append((svg(chart()), inline_svg(chart()), png(chart())))
        figures._svg.cache_clear()
    assert drawn[0] == drawn[1]


def test_axes_series_and_marks_are_named_in_text() -> None:
    found = texts(svg(chart()))
    for name in ("depth", "accuracy", "plain", "repa", "goal", "aligned depth 2", "reached"):
        assert name in found


def test_what_is_faint_is_drawn_but_not_in_the_legend() -> None:
    series = (
        Series("each", (1, 2), (0.1, 0.2), 0, (), True),
        Series("mean", (1, 2), (0.1, 0.3), 0),
    )
    drawn = svg(Chart("faint", "t", "x", "y", series))
    assert "mean" in texts(drawn)
    assert "each" not in texts(drawn)
    assert "opacity: 0.5" in drawn


@pytest.mark.parametrize("name", ["_hidden", "$x^2$", "<script>", "a & b", r"\frac", "名"])
def test_any_name_is_shown_as_it_is(name: str) -> None:
    assert name in texts(svg(chart((name,))))
    png(chart((name,)))


def test_in_a_page_text_has_the_pages_color_and_nothing_is_behind() -> None:
    drawn = inline_svg(chart())
    assert drawn.startswith("<svg")
    assert "currentColor" in drawn
    assert "#010203" not in drawn
    assert not re.search(r"fill: #f", drawn)
    assert "#000000" in svg(chart())
    assert "#ffffff" in svg(chart())


def test_ids_of_two_figures_in_a_page_differ() -> None:
    one, other = inline_svg(chart()), inline_svg(Chart("b", "t", "x", "y", chart().series))
    ids = [re.findall(r'id="([^"]+)"', drawn) for drawn in (one, other)]
    assert all(ids)
    assert not set(ids[0]) & set(ids[1])
    for drawn, own in zip((one, other), ids, strict=True):
        assert len(set(own)) == len(own)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawn)) <= set(own)


def test_every_series_can_be_told_by_color_dash_and_marker() -> None:
    for looks in (COLORS, DASHES, MARKERS):
        assert len(set(map(str, looks))) == 8


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("background", ["#ffffff", "#1a1e22"])  # the page's cards, light and dark
def test_series_have_the_contrast_that_graphics_need(color: str, background: str) -> None:
    high, low = sorted((luminance(color), luminance(background)), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.2, 1.4.11


def test_sixteen_series_and_long_names_fit() -> None:
    names = tuple(f"a run with a long name, number {i}, of which there are many" for i in range(16))
    with Image.open(io.BytesIO(png(chart(names)))) as image:
        assert image.width < image.height < 3 * image.width  # the legend is below, not beside


def test_a_chart_is_written_as_three_files(tmp_path: Path) -> None:
    write_chart(chart(), tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "a-chart.svg", "a-chart.png", "a-chart.csv"
    }  # fmt: skip
    with Image.open(tmp_path / "figures" / "a-chart.png") as image:
        assert image.width > 900  # 200 dots an inch
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_where_nothing_can_be_written_one_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("")
    with pytest.raises(RepaError, match="cannot write .*a-chart"):
        write_chart(chart(), tmp_path / "figures")


def test_scatter_plots_label_their_points() -> None:
    series = (Series("a", (0.1, 0.2), (3.0, 4.0), 0, ("100", "200")),)
    found = texts(svg(Chart("s", "t", "x", "y", series, kind="scatter", percent="x")))
    assert {"100", "200", "10%", "20%"} <= set(found)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_cannot_be_drawn_leave_gaps(bad: float) -> None:
    series = (Series("a", (1, 2, 3), (0.1, bad, 0.3), 0), Series("b", (1,), (bad,), 1))
    marks = (Mark("level", y=bad), Mark("ring", 2, bad))
    assert "level" in texts(svg(Chart("bad", "t", "x", "y", series, marks)))
