"""The text-to-image demo, a few steps long."""

import json
import re
from pathlib import Path

import pytest

from repa.cli import main
from repa.files import read_json_lines


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    arguments = ["demo", "--text", "--steps", "4", "--num-samples", "20", "--device", "cpu"]
    assert main([*arguments, "--out", str(out)]) == 0
    return out


def test_summary_compares_drawings_with_their_own_images(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text())
    assert summary["chance"] == 0.5
    for split in ("train", "val"):
        found = summary[split]
        assert 0 < found["own_nearer"] < 1
        assert (found["names"], found["standard_error"] > 0) == (20, True)
    assert summary["train"]["others"] > summary["val"]["others"] > 100
    assert summary["settings"]["text_encoder"] == "minilm"


def test_the_page_shows_drawings_and_says_which_names_were_held_out(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    assert "$" not in page
    trained, held_out = (
        page.index(text) for text in ("Texts that it was trained with", "Held-out texts: no image")
    )
    others = page.index("Other texts, which have no real image")
    assert page.index("drawn for: red heart") > others
    drawn = [m.start() for m in re.finditer("drawn for: ", page)]
    assert len(drawn) == 38
    assert sum(trained < place < held_out for place in drawn) == 16
    for name in ("cat face", "heavy black heart", "banana", "airplane"):
        assert trained < page.index(f"drawn for: {name}") < held_out
    assert held_out < page.index("drawn for: green heart") < others
    names = {
        split: {line["prompt"] for line in read_json_lines(demo / f"samples/{split}.prompts.jsonl")}
        for split in ("train", "val")
    }
    assert names["train"].isdisjoint(names["val"])
    for split, place in (("train", range(trained, held_out)), ("val", range(held_out, others))):
        own = {m[1] for m in re.finditer('alt="drawn for: ([^"]*)"', page) if m.start() in place}
        assert own <= names[split]
