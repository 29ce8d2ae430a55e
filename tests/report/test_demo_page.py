from pathlib import Path

import pytest
import torch

from repa.report.demo_page import METRICS, write_demo_report

BETTER = {key: 2.0 if higher else 1.0 for key, (_, _, higher) in METRICS.items()}
WORSE = {key: 1.0 if higher else 2.0 for key, (_, _, higher) in METRICS.items()}


def page(tmp_path: Path, baseline: dict, repa: dict) -> str:
    settings = {"steps": 3, "target": "<target>", "judge": "judge", "encoder_depth": 2}
    log = [{"step": 1, "denoising_loss": 1.0}, {"step": 2, "denoising_loss": 0.5}]
    history = [{"step": 2, "linear_probe_accuracy": 0.5, "cknna": 0.1}]
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    path = tmp_path / "report.html"
    write_demo_report(
        path,
        {"baseline": baseline, "repa": repa, "settings": settings},
        {"baseline": log, "repa": log},
        {"baseline": history, "repa": history},
        {"baseline": images, "repa": images},
        images,
    )
    return path.read_text()


def test_the_verdict_follows_the_numbers_either_way(tmp_path: Path) -> None:
    assert page(tmp_path, WORSE, BETTER).count("not better") == 0
    assert page(tmp_path, BETTER, WORSE).count("not better") == 3
    assert page(tmp_path, BETTER, BETTER).count("not better") == 3


@pytest.mark.parametrize(("baseline", "repa"), [(WORSE, BETTER), (BETTER, WORSE)])
def test_the_better_value_of_each_row_is_marked(tmp_path: Path, baseline, repa) -> None:
    text = page(tmp_path, baseline, repa)
    assert text.count("class=best") == len(METRICS)
    row = text[text.index("Fréchet distance ↓") :].split("</tr>")[0]
    assert "<td class=best>1.0</td>" in row  # the smaller distance


def test_values_that_look_equal_are_not_marked(tmp_path: Path) -> None:
    almost = {key: value + 1e-9 for key, value in BETTER.items()}
    assert "class=best" not in page(tmp_path, BETTER, almost)


def test_text_is_escaped(tmp_path: Path) -> None:
    text = page(tmp_path, WORSE, BETTER)
    assert "&lt;target&gt;" in text
    assert "<target>" not in text
