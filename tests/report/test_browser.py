"""The page in a real browser: Debian's Chromium, driven by playwright. Nothing is downloaded."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repa.report.comparison import Comparison
from repa.report.page import write_report
from repa.report.runs import Analysis, RunRecord

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium (see .ci/install-browser)")

CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = rgb(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.getClientRects().length || element.matches("script, style")) continue;
    const style = getComputedStyle(element);
    const color = rgb(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [luminance(color), luminance(behind(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) low.push(`${element.tagName} ${element.textContent}: ${contrast}`);
  }
  return low;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Root has no sandbox in containers; the page is our own.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, page: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page at a width; whatever it complains about or asks for fails the test."""
    url = page.as_uri()
    pages, messages, requests = [], [], []

    def open_at(width: int = 1280, **context: Any) -> Any:
        opened = browser.new_page(viewport={"width": width, "height": 900}, **context)
        opened.on("console", lambda message: messages.append(message.text))
        opened.on("pageerror", lambda error: messages.append(str(error)))
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(url)
        pages.append(opened)
        return opened

    yield open_at
    for opened in pages:
        opened.close()
    assert messages == []
    assert {address for address in requests if not address.startswith("data:")} <= {url}


def colors(page: Any) -> tuple[str, str]:
    """Of the page behind, and of a figure's text."""
    return (
        page.evaluate("getComputedStyle(document.body).backgroundColor"),
        page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill"),
    )


def seen_steps(page: Any) -> list[str]:
    """What stands below the grid of each run that is seen."""
    return page.locator(".frame:visible > p").all_inner_texts()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_even_with_all_folded_out(open_page, width: int) -> None:
    page = open_page(width)
    for _ in range(2):
        widths = page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert widths[0] <= widths[1]
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")


@pytest.mark.parametrize("width", [1280, 390])
def test_tables_of_many_runs_scroll_in_their_box(
    browser: Any, runs: list[RunRecord], tmp_path: Path, width: int
) -> None:
    names = [f"run_{i}_whose_name_has_no_place_where_a_line_may_break" for i in range(12)]
    many = [replace(run, name=name) for run, name in zip(runs * 6, names, strict=True)]
    nothing: dict[str, Any] = {"evaluations": [], "probes": [], "alignments": [], "previews": {}}
    bare = [replace(run, metrics=run.metrics[-1:], **nothing) for run in many]
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(write_report(Comparison(bare, Analysis()), tmp_path).as_uri())
    widths = "[{0}.scrollWidth, {0}.clientWidth]"
    box = page.evaluate(widths.format("document.querySelector('.scroll')"))
    assert box[0] > box[1]
    whole = page.evaluate(widths.format("document.documentElement"))
    assert whole[0] <= whole[1]
    page.close()


def test_the_slider_moves_all_runs_by_keyboard_and_says_where_it_is(open_page) -> None:
    page = open_page()
    slider, output = page.locator("#step"), page.locator(".slider output")
    assert seen_steps(page) == ["step 400,000", "step 400,000"]
    before = page.locator(".frame:visible img").nth(1).get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert output.inner_text() == slider.get_attribute("aria-valuetext") == "step 200,000"
    assert output.get_attribute("aria-live") == "polite"
    assert seen_steps(page) == ["step 200,000", "step 200,000"]
    assert page.locator(".frame:visible img").nth(1).get_attribute("src") != before
    page.keyboard.press("Home")
    assert seen_steps(page) == ["No grid before step 100,000.", "step 50,000"]
    page.keyboard.press("End")
    assert output.inner_text() == "step 400,000"


def test_without_scripts_the_last_grids_are_seen(open_page) -> None:
    page = open_page(java_script_enabled=False)
    assert seen_steps(page) == ["step 400,000", "step 400,000"]
    assert not page.locator("#step").is_visible()


def test_a_dark_page_has_dark_figures(open_page) -> None:
    light, dark = (colors(open_page(color_scheme=scheme)) for scheme in ("light", "dark"))
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert dark[1] == open_page(color_scheme="dark").evaluate(
        "getComputedStyle(document.body).color"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_text_needs(open_page, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate(CONTRAST) == []


def test_all_that_works_by_mouse_works_by_keyboard(open_page) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(e => e.id || e.className || e.tagName.toLowerCase())(document.activeElement)"
            )
        )
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(f"document.activeElement === document.body || {outline} !== 'none'")
    assert {"a", "scroll", "step", "summary", "pre"} <= reached
    summary = page.locator(".chart summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator(".chart details[open] table").count() == 1


def test_pictures_load_and_pixel_art_stays_sharp(open_page) -> None:
    page = open_page()
    widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert widths == [263] * 7
    sharp = page.evaluate("getComputedStyle(document.images[0]).imageRendering")
    assert sharp == "pixelated"


def test_numbers_can_be_saved(open_page) -> None:
    page = open_page()
    page.locator(".chart summary").first.click()
    with page.expect_download() as download:
        page.locator(".chart details[open] a[download]").click()
    assert download.value.suggested_filename == "evaluation-fid-inception-5000.csv"
    text = Path(download.value.path()).read_text()
    assert text.startswith("series,training step,FID,label\nplain,50000,91.2,\n")


def test_on_paper_are_the_last_grids_and_no_controls(open_page) -> None:
    page = open_page(color_scheme="dark")
    page.locator("#step").focus()
    page.keyboard.press("Home")
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", pdf)) > 1
    page.emulate_media(media="print")
    assert seen_steps(page) == ["step 400,000", "step 400,000"]
    assert not page.locator("nav, .slider").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"


def test_who_wants_no_motion_gets_none(open_page) -> None:
    behavior = "getComputedStyle(document.documentElement).scrollBehavior"
    assert open_page(reduced_motion="reduce").evaluate(behavior) == "auto"
    assert open_page(reduced_motion="no-preference").evaluate(behavior) == "smooth"
