import base64
import io
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repa.errors import RepaError
from repa.report.pictures import sample_grids, shown_steps
from repa.report.runs import RunRecord
from report.folders import STEPS


def frames(html: str) -> list[list[tuple[int, bool, str]]]:
    """Of each run: the slider's place from which a frame is shown, whether it is, its text."""
    found = []
    for figure in html.split('<div class="frames">')[1:]:
        parts = re.findall(
            r'<div class="frame" data-from="(\d+)"( hidden)?>(.*?)</div>', figure, re.DOTALL
        )
        found.append(
            [(int(a), not hidden, re.sub("<[^>]*>", "", text)) for a, hidden, text in parts]
        )
    return found


def test_one_slider_moves_all_runs_over_all_steps(runs: list[RunRecord]) -> None:
    html = sample_grids(runs)
    assert html.count('type="range"') == 1
    assert f'data-steps="{" ".join(map(str, STEPS))}"' in html
    plain, repa = frames(html)
    assert [(place, text) for place, _, text in repa] == [
        (i, f"step {step:,}") for i, step in enumerate(STEPS)
    ]
    assert plain[0] == (0, False, "No grid before step 100,000.")
    assert [seen for _, seen, _ in plain] == [False, False, False, True]  # without scripts


def test_each_run_shows_its_nearest_earlier_grid(runs: list[RunRecord]) -> None:
    path = runs[1].previews[50_000]
    few = replace(runs[0], previews={100: path, 50_000: path})
    (own, _) = frames(sample_grids([few, runs[1]]))
    assert [(place, text) for place, _, text in own] == [(0, "step 100"), (1, "step 50,000")]


def test_steps_are_evenly_chosen_with_the_first_and_the_last(runs: list[RunRecord]) -> None:
    path = runs[1].previews[50_000]
    many = replace(runs[1], previews=dict.fromkeys(range(0, 100_001, 1000), path))
    steps = shown_steps([many])
    assert len(steps) == 12
    assert (steps[0], steps[-1]) == (0, 100_000)
    assert {b - a for a, b in pairwise(steps)} == {9000, 10_000}
    assert len(shown_steps([many] * 12)) == 6  # with more runs fewer, for the page's size


def test_pixel_art_stays_as_it_is(runs: list[RunRecord]) -> None:
    html = sample_grids(runs)
    path = runs[1].previews[400_000]
    uri = base64.b64encode(path.read_bytes()).decode()
    assert f'<img class="pixels" src="data:image/png;base64,{uri}"' in html


def test_large_grids_are_reduced(tmp_path: Path, runs: list[RunRecord]) -> None:
    path = tmp_path / "1.png"
    pixels = np.random.default_rng(0).integers(0, 255, (1027, 2055, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    html = sample_grids([replace(runs[0], previews={1: path})])
    (data,) = re.findall(r"data:image/webp;base64,([^\"]+)", html)
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (1024, 512)
    assert 'width="1024" height="512"' in html
    assert "pixels" not in html
    assert "range" not in html  # one step needs no slider


def test_real_images_stand_beside_the_samples(runs: list[RunRecord]) -> None:
    html = sample_grids(runs, runs[1].previews[400_000])
    assert "<figcaption>Real images</figcaption>" in html
    assert html.count("<figure") == 3


def test_without_pictures_there_is_nothing(runs: list[RunRecord]) -> None:
    assert sample_grids([replace(run, previews={}) for run in runs]) == ""


def test_a_damaged_picture_is_named(tmp_path: Path, runs: list[RunRecord]) -> None:
    path = tmp_path / "0000001.png"
    path.write_bytes(runs[1].previews[400_000].read_bytes()[:500])
    with pytest.raises(RepaError, match=r"cannot read the picture .*0000001.png"):
        sample_grids([replace(runs[0], previews={1: path})])
