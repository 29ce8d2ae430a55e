"""`--probe-every` and `--align-every`: hidden states are looked into while the run goes on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from repa.autoencoders import Pixels
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import open_source
from repa.errors import RepaError
from repa.training import train

ENCODER = "efficientnet-lite0"


@pytest.fixture
def analyzed(options):
    """Options with both analyses at every second step."""
    values = {"ema_decay": 0.5, "probe_every": 2, "align_every": 2}
    return lambda **changes: options(**(values | changes))


def rows(run: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def test_rows_are_written_and_training_is_not_disturbed(analyzed) -> None:
    plain = train(analyzed(exp_name="plain", probe_every=None, align_every=None))
    run = train(analyzed(report_to="tensorboard", analysis_times=(0.3, 0.5)))
    probes, alignments = rows(run, "probes.jsonl"), rows(run, "alignments.jsonl")
    places = [(s, t, d) for s in (2, 4) for t in (0.3, 0.5) for d in range(1, 7)]
    for found in (probes, alignments):
        assert [(row["step"], row["time"], row["depth"]) for row in found] == places
        assert {row["name"] for row in found} == {"run"}
        assert {row["encoder_depth"] for row in found} == {2}
    assert all(0 <= row["top1"] <= row["top5"] <= 1 for row in probes)
    assert {row["encoder"] for row in alignments} == {ENCODER}
    for metric in ("cknna", "cka", "mutual_knn"):
        assert all(math.isfinite(row[metric]) for row in alignments)
    assert len({row["cka"] for row in alignments}) > 6  # blocks and times differ
    assert not list(plain.glob("probes.jsonl")) + list(plain.glob("alignments.jsonl"))
    for name in ("model", "ema", "optimizer"):
        before, after = (
            load_file(folder / "checkpoints" / "0000004" / f"{name}.safetensors")
            for folder in (plain, run)
        )
        assert all(torch.equal(before[key], after[key]) for key in before)
    events = next((run / "logs").rglob("events.out.tfevents*")).read_bytes()
    for tag in (b"probes/top1_t0.5_block03", b"alignments/cknna_efficientnet-lite0_t0.3_block06"):
        assert tag in events


def test_each_analysis_has_its_own_steps(analyzed) -> None:
    run = train(analyzed(probe_every=3, align_every=None))
    assert {row["step"] for row in rows(run, "probes.jsonl")} == {3}
    assert not (run / "alignments.jsonl").exists()


def test_a_resumed_run_repeats_what_a_killed_one_left(analyzed) -> None:
    whole = train(analyzed())
    train(analyzed(exp_name="again", max_train_steps=2))
    again = whole.with_name("again")
    for name in ("probes.jsonl", "alignments.jsonl"):
        with (again / name).open("a") as file:
            file.write('{"step": 4, "depth": 9}\n{"step": 6, "dep')
    train(analyzed(exp_name="again"))
    for name in ("probes.jsonl", "alignments.jsonl"):
        expected = [row | {"name": "again", "run": str(again)} for row in rows(whole, name)]
        assert rows(again, name) == expected


def test_two_processes_find_what_one_does(analyzed, launch) -> None:
    alone = train(analyzed(exp_name="alone", max_train_steps=2))
    together = launch(analyzed(exp_name="together", max_train_steps=2))
    for name, metric in (("probes.jsonl", "top1"), ("alignments.jsonl", "cka")):
        pairs = zip(rows(alone, name), rows(together, name), strict=True)
        for one, other in pairs:
            assert other[metric] == pytest.approx(one[metric], abs=0.1), metric


def test_images_of_ones_own_and_a_plain_run(analyzed, tmp_path: Path) -> None:
    source, work = open_source("twemoji-val"), Work(num_workers=0)
    prepare(source, tmp_path / "val", 32, Pixels(), {}, max_images=40, work=work)
    changes = {"enc_type": "none", "max_train_steps": 2, "align_enc_type": ENCODER}
    own = train(analyzed(exp_name="own", val_dir=tmp_path / "val", **changes))
    other = train(analyzed(exp_name="other", **changes))
    for name in ("probes.jsonl", "alignments.jsonl"):
        assert rows(own, name) != rows(other, name)
    assert {row["encoder_depth"] for row in rows(own, "probes.jsonl")} == {None}


def test_images_without_classes_are_aligned_but_not_probed(analyzed, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(60):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    prepare(open_source(str(folder)), tmp_path / "data", 32, Pixels(), {}, work=Work(num_workers=0))
    changes = {"data_dir": tmp_path / "data", "max_train_steps": 2}
    run = train(analyzed(probe_every=None, **changes))
    assert len(rows(run, "alignments.jsonl")) == 6
    with pytest.raises(RepaError, match="all of one class: there is nothing to classify"):
        train(analyzed(exp_name="probed", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enc_type": "none"}, "--align-every: name encoders to compare with as --align-enc-type"),
        ({"val_dir": Path("none")}, "no prepared dataset in none"),
        ({"align_enc_type": "vgg"}, "unknown encoder 'vgg'"),
        ({"analysis_images": 8}, "too few"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(
    analyzed, tmp_path: Path, changes, message
) -> None:
    with pytest.raises(RepaError, match=message):
        train(analyzed(**changes))
    assert not (tmp_path / "run").exists()
