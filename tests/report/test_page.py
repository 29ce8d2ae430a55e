import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from repa.errors import RepaError
from repa.report import figures
from repa.report.comparison import Comparison
from repa.report.page import write_report
from repa.report.runs import Analysis, RunRecord, read_runs
from report.folders import VERSIONS, probe_row, result, write_lines, write_results, write_run

VOID = {"meta", "img", "input", "br"}


class Tree(HTMLParser):
    """Checks that elements are closed in order, and collects them with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_is_well_formed_and_has_one_heading_of_each_level_above(page: Path) -> None:
    tree = Tree(page.read_text())
    levels = [int(name[1]) for name, _ in tree.elements if re.fullmatch("h[1-6]", name)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = [a["id"] for _, a in tree.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for link in tree.all("a"):
        href = str(link["href"])
        assert href.startswith("data:text/csv") or href[1:] in ids
    assert all("scope" in cell for cell in tree.all("th"))
    assert all(image["alt"] for image in tree.all("img"))
    charts = [a for a in tree.all("svg") if a.get("role") == "img"]
    assert len(charts) > 10
    assert all("Line chart" in str(a["aria-label"]) or "Scatter" in str(a["aria-label"])
               for a in charts)  # fmt: skip
    assert all(box["tabindex"] == "0" for box in tree.all("div") if box.get("class") == "scroll")


def test_the_page_needs_nothing_else(page: Path) -> None:
    tree = Tree(page.read_text())
    for _, attributes in tree.elements:
        for name in ("src", "srcset", "data", "poster"):
            assert str(attributes.get(name, "data:")).startswith("data:")
    assert not tree.all("link")
    text = page.read_text()
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_figure_is_a_file_too_and_its_numbers_are_in_the_page(page: Path) -> None:
    folder, text = page.parent / "figures", page.read_text()
    names = {path.stem for path in folder.glob("*.svg")}
    assert "probe-depth-t0.5" in names
    assert "evaluation-fid-inception-5000" in names
    assert names == {path.stem for path in folder.glob("*.png")}
    for path in folder.glob("*.csv"):
        uri = base64.b64encode(path.read_bytes()).decode()
        assert f'href="data:text/csv;base64,{uri}" download="{path.name}"' in text


def test_the_page_tells_what_runs_are_and_were_run_with(page: Path) -> None:
    text = page.read_text()
    assert "<title>plain and repa</title>" in text
    assert "repa train --config configs/b.yaml" in text
    assert "NVIDIA H200, 8 processes; precision bf16; Linux x86_64" in text
    assert f"torch {VERSIONS['torch']}" in text
    assert re.search(r'<th scope="row">enc_type</th><td[^>]*>none</td><td[^>]*>dinov2', text)
    assert "guided.json" in text
    assert "guidance 1.8" in text
    assert text.count("(best)") >= 5
    differing = text.split("Options that differ")[2].split("</table>")[0]
    assert "exp_name" not in differing


def test_results_of_checkpoints_are_figures_and_a_table(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "plain"), write_run(tmp_path / "repa", "dinov2-vit-b")]
    for folder in folders:
        write_results(folder, [result(s, 9000.0 / s, r) for r in ("train", "test") for s in (1, 2)])
    page = write_report(Comparison(read_runs(folders), Analysis()), tmp_path / "report")
    text = page.read_text()
    Tree(text)
    assert "Evaluations of checkpoints" in text
    assert "Evaluations during training" not in text
    cells = ("2", "efficientnet-lite2", "10,000", "test", "SDE in 50 steps, no guidance")
    assert re.search("".join(f"<td[^>]*>{cell}</td>" for cell in cells), text)
    assert '<p class="note">Time is that of the training steps;' in text
    names = {path.name for path in (page.parent / "figures").glob("evaluation-*.csv")}
    distance = "frechet-distance-efficientnet-lite2-10000-reference-train.csv"
    assert {f"evaluation-{distance}", f"evaluation-time-{distance}"} <= names


def test_the_page_of_a_bare_run_has_only_what_there_is(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "run")])
    (runs[0].folder / "metrics.jsonl").write_text("")
    page = write_report(Comparison(read_runs([tmp_path / "run"]), Analysis()), tmp_path / "report")
    text = page.read_text()
    Tree(text)
    for name in ("samples", "evaluation", "representations", "training"):
        assert f'<section id="{name}"' not in text
        assert f'href="#{name}"' not in text
    assert "There are no evaluations, probes or alignments" in text
    assert "All options" in text
    assert f"repa train --config {tmp_path / 'run' / 'config.yaml'}" in text


def test_everything_from_files_is_escaped(tmp_path: Path, runs: list[RunRecord]) -> None:
    bad = "<img src=x onerror=alert(1)> \"'&$title"
    folder = write_run(tmp_path / bad, "dinov2-vit-b", exp_name=bad)
    write_lines(
        folder / "probes.jsonl", [probe_row(bad, d, step=s) for d in (1, 2) for s in (1, 2)]
    )
    line = {"step": 1, "network": bad, "samples": 5, "fid": 3.0}
    write_lines(folder / "evaluations.jsonl", [line, line | {"step": 2}])
    start = {"step": 0, "command": bad, "device": bad, "versions": {bad: bad}}
    write_lines(folder / "starts.jsonl", [start])
    result = {"network": bad, "samples": {"count": 5, "drawn": {bad: bad}}, "reference": {}}
    (folder / f"{bad}.json").write_text(json.dumps(result))
    own = replace(read_runs([folder])[0], metrics=[], previews=runs[1].previews)
    spatial = [{"encoder": bad, "lds": 0.1, "cds": 0.2, "rmsc": 0.3}]
    analysis = Analysis((), (), spatial, {"probe": {bad: bad}})
    page = write_report(Comparison([own, runs[0]], analysis), tmp_path / "r", bad, bad, bad)
    text = page.read_text()
    tree = Tree(text)
    assert "<img src=x" not in text
    assert not any("onerror" in attributes for _, attributes in tree.elements)
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") > 20
    assert text.count("&quot;&#x27;&amp;$title") > 20  # nor is anything put in its place
    assert len(tree.all("script")) == 1


def test_long_tables_are_thinned_but_not_their_csv(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    lines = [{"step": i, "denoising_loss": 0.5} for i in range(1, 1002)]
    write_lines(folder / "metrics.jsonl", lines)
    page = write_report(Comparison(read_runs([folder]), Analysis()), tmp_path / "report")
    text = page.read_text()
    assert "One of 6 rows; all 1,001 are in the CSV." in text
    assert text.count("<td>0.5</td>") < 210
    csv = (tmp_path / "report" / "figures" / "training-denoising-loss.csv").read_text()
    assert csv.count("\n") == 1002


def test_title_lead_and_credit_are_the_callers(tmp_path: Path) -> None:
    both = Comparison(read_runs([write_run(tmp_path / "run")]), Analysis())
    page = write_report(both, tmp_path / "a", "A title", "A lead.", "Twemoji, CC-BY 4.0")
    text = page.read_text()
    assert '<h1>A title</h1>\n<p class="lead">A lead.</p>' in text
    assert "<p>Twemoji, CC-BY 4.0</p>" in text


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    comparison = Comparison(read_runs([write_run(tmp_path / "run")]), Analysis())
    pages = []
    for name in "ab":
        pages.append(write_report(comparison, tmp_path / name).read_bytes())
        figures._svg.cache_clear()
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("drawn", "text"),
    [
        ({"step": 8, "mode": "ode", "num_steps": 25, "heun": False, "cfg_scale": 1.0},
         "step 8, ODE in 25 steps, no guidance"),
        ({"mode": "ode", "num_steps": 9, "heun": True, "cfg_scale": 1.5, "guidance_low": 0.0,
          "guidance_high": 1.0}, "ODE (Heun) in 9 steps, guidance 1.5"),
        ({"step": 400000, "mode": "sde", "num_steps": 250, "cfg_scale": 1.8, "guidance_low": 0.0,
          "guidance_high": 0.7}, "step 400000, SDE in 250 steps, guidance 1.8 on [0.0, 0.7]"),
        ({"mode": "ddpm", "num_steps": 250, "cfg_scale": 1.5, "guide_all_channels": True},
         "DDPM in 250 steps, guidance 1.5 of all channels"),
    ],
)  # fmt: skip
def test_a_result_says_how_its_samples_were_drawn(
    runs: list[RunRecord], tmp_path: Path, drawn: dict, text: str
) -> None:
    result = {"network": "inception", "samples": {"count": 5, "drawn": drawn}, "fid": 3.0}
    run = replace(runs[0], results={"a.json": result})
    assert text in write_report(Comparison([run], Analysis()), tmp_path / "r").read_text()


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    comparison = Comparison(read_runs([write_run(tmp_path / "run")]), Analysis())
    (tmp_path / "r" / "report.html").mkdir(parents=True)
    with pytest.raises(RepaError, match=r"^cannot write \S+report\.html: Is a directory$"):
        write_report(comparison, tmp_path / "r")
