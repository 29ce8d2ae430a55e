"""`repa probe` and `repa align` on real images and small trained models."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from repa.analysis import cka, cknna, linear_probe, mutual_knn
from repa.analysis.align import run_align
from repa.analysis.hidden_states import hidden_states
from repa.analysis.probe import run_probe
from repa.analysis.targets import target_states
from repa.checkpoints import list_checkpoints, load_model
from repa.checkpoints.checksums import write_checksums
from repa.cli import main
from repa.config import AlignOptions, ProbeOptions, TrainOptions
from repa.data import PreparedDataset
from repa.diffusion import FlowMatching
from repa.errors import RepaError
from repa.training import train

ENCODER = "efficientnet-lite0"


@pytest.fixture(scope="module")
def runs(emoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A plain and an aligned run of six blocks, with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("runs")
    plain, aligned = (
        train(
            TrainOptions(
                exp_name=name,
                output_dir=folder,
                data_dir=emoji_dir,
                model="SiT-Ti/8",
                enc_type=encoder,
                encoder_depth=2,
                projector_dim=32,
                max_train_steps=4,
                checkpointing_steps=2,
                batch_size=8,
                learning_rate=3e-3,  # so that few steps leave the zeros of initialization
                ema_decay=0.5,
                mixed_precision="no",
                report_to="none",
                device="cpu",
            )
        )
        for name, encoder in (("plain", "none"), ("aligned", ENCODER))
    )
    return plain, aligned


@pytest.fixture
def probe(runs, emoji_dir: Path, tmp_path: Path):
    """`probe(option=value, ...)`: rows of both runs' newest checkpoints at one time."""

    def call(**changes) -> list[dict]:
        values = {"ckpt": runs, "data_dir": emoji_dir, "times": 0.5, "device": "cpu",
                  "output_dir": tmp_path / "analysis"}  # fmt: skip
        found = run_probe(ProbeOptions.model_validate(values | changes))
        assert found == json.loads((tmp_path / "analysis" / "probe.json").read_text())
        return found["rows"]

    return call


@pytest.fixture
def align(runs, emoji_dir: Path, tmp_path: Path):
    """The same for `repa align`; returns all that it found."""

    def call(**changes) -> dict:
        values = {"ckpt": runs, "data_dir": emoji_dir, "times": 0.5, "device": "cpu",
                  "output_dir": tmp_path / "analysis"}  # fmt: skip
        found = run_align(AlignOptions.model_validate(values | changes))
        assert found == json.loads((tmp_path / "analysis" / "align.json").read_text())
        return found

    return call


def of_models(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["subject"] == "model"]


def test_every_block_floor_and_ceiling_are_probed(probe, runs, emoji_dir: Path) -> None:
    rows = probe()
    assert [(row["subject"], row["name"]) for row in rows[:2]] == [
        ("pixels", "pixels"),
        ("encoder", ENCODER),
    ]
    found = of_models(rows)
    assert [(row["name"], row["depth"]) for row in found] == [
        (run.name, depth) for run in runs for depth in range(1, 7)
    ]
    for row in found:
        assert (row["step"], row["weights"], row["model"]) == (4, "ema", "SiT-Ti/8")
        assert row["encoder_depth"] == (2 if row["name"] == "aligned" else None)
        assert Path(row["run"]) in runs
    assert all(0 <= row["top1"] <= row["top5"] <= 1 for row in rows)

    dataset = PreparedDataset(emoji_dir)
    test = [i for i in range(64) if i % 5 == 4]
    train_rows = [i for i in range(64) if i % 5 != 4]
    labels = torch.from_numpy(dataset.labels)
    model, _ = load_model(runs[1])
    states = (
        hidden_states(model, dataset, i, [2], FlowMatching(), 0.5)[0] for i in (train_rows, test)
    )
    by_hand, by_hand_test = states
    expected = linear_probe(by_hand, labels[train_rows], by_hand_test, labels[test])
    [row] = [row for row in found if row["name"] == "aligned" and row["depth"] == 2]
    assert row["top1"] == pytest.approx(expected)


def test_tables_and_figures_are_made_of_the_results(
    runs, emoji_dir: Path, tmp_path: Path, capsys
) -> None:
    ckpt = ["--ckpt", *map(str, runs), "--data-dir", str(emoji_dir), "--device", "cpu"]
    rest = ["--times", "0.3", "0.5", "--output-dir", str(tmp_path)]
    assert main(["probe", *ckpt, *rest]) == 0
    printed = capsys.readouterr().out
    for text in ("pixels", ENCODER, "plain       aligned", "at t = 0.5", "step 4", "block 6"):
        assert text in printed
    assert main(["align", *ckpt, *rest]) == 0
    printed = capsys.readouterr().out
    for text in (f"CKNNA with {ENCODER}", "block 6", f"tokens of {ENCODER}: lds "):
        assert text in printed
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    for name in {Path(path).stem for path in figures}:
        assert {f"{name}.csv"} <= figures
    assert sum(name.endswith(".svg") for name in figures) >= 4  # two times, two commands
    assert sum(name.endswith(".png") for name in figures) >= 4


def test_each_metric_of_alignment_is_that_of_the_library(align, runs, emoji_dir: Path) -> None:
    found = align(neighbors=5)
    dataset = PreparedDataset(emoji_dir)
    model, _ = load_model(runs[0])
    states = hidden_states(model, dataset, range(64), [3], FlowMatching(), 0.5)[0]
    target = target_states(dataset, range(64), ENCODER)
    states, target = F.normalize(states.double()), F.normalize(target.double())
    [row] = [r for r in found["rows"] if r["name"] == "plain" and r["depth"] == 3]
    assert row["cknna"] == pytest.approx(cknna(states, target, 5), rel=1e-5)
    assert row["cka"] == pytest.approx(cka(states, target), rel=1e-5)
    assert row["mutual_knn"] == pytest.approx(mutual_knn(states, target, 5))
    assert [row["encoder"] for row in found["spatial"]] == [ENCODER]
    assert found["settings"]["neighbors"] == 5


def test_a_series_of_checkpoints_times_and_depths(probe, runs) -> None:
    rows = of_models(probe(every_checkpoint=True, depths=[2, 6], times=[0.2, 0.8], enc_type="none"))
    places = [(r["name"], r["step"], r["time"], r["depth"]) for r in rows]
    assert places == [
        (run.name, step, time, depth)
        for run in runs for step in (2, 4) for time in (0.2, 0.8) for depth in (2, 6)
    ]  # fmt: skip
    raw = probe(depths=[2], enc_type="none", raw_weights=True)
    assert {row["weights"] for row in of_models(raw)} == {"ema", "raw"}


def test_what_is_known_is_not_computed_again(probe, runs, monkeypatch) -> None:
    first = probe(ckpt=runs[:1], depths=[1, 2])
    calls = []
    from repa.analysis import probe as module

    real = module.linear_probes
    monkeypatch.setattr(module, "linear_probes", lambda *a: calls.append(a[0].shape[0]) or real(*a))
    both = probe(depths=[1, 2, 3])
    assert calls == [1, 1, 3]  # the encoder, the plain run's third block, all of the other run
    assert both[: len(first)] == first
    assert probe(depths=[1, 2, 3]) == both
    assert len(calls) == 3


def test_encoders_are_compared_without_any_checkpoint(align, tmp_path: Path) -> None:
    names = f"{ENCODER},efficientnet-lite1"
    found = align(ckpt=None, enc_type=names)
    [row] = found["rows"]
    assert (row["subject"], row["name"], row["encoder"]) == ("encoder", *names.split(","))
    assert 0.05 < row["cknna"] <= 1  # two networks of one kind see alike
    assert {row["encoder"] for row in found["spatial"]} == set(names.split(","))
    assert all(0 < row["rmsc"] < 1 for row in found["spatial"])


def test_patches_are_compared_at_the_same_places(align) -> None:
    found = align(pooling="patch", enc_type=f"{ENCODER},efficientnet-lite1", depths=[2])
    assert {(r["name"], r["encoder"]) for r in of_models(found["rows"])} == {
        (name, encoder)
        for name in ("plain", "aligned") for encoder in (ENCODER, "efficientnet-lite1")
    }  # fmt: skip
    mean = align(overwrite=True, depths=[2])
    values = [
        next(r["cka"] for r in of_models(rows) if r["encoder"] == ENCODER)
        for rows in (found["rows"], mean["rows"])
    ]
    assert values[0] != values[1]


def test_two_processes_find_what_one_does(probe, runs, emoji_dir: Path, tmp_path: Path) -> None:
    alone = probe(depths=[2], enc_type=ENCODER)
    out = tmp_path / "together"
    arguments = ["--ckpt", *map(str, runs), "--data-dir", str(emoji_dir), "--output-dir", str(out),
                 "--times", "0.5", "--depths", "2", "--device", "cpu"]  # fmt: skip
    for command in ("probe", "align"):
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
             "-m", "repa.cli", command, *arguments],
            check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    together = json.loads((out / "probe.json").read_text())["rows"]
    assert [r["top1"] for r in together] == pytest.approx([r["top1"] for r in alone], abs=0.1)
    assert len(json.loads((out / "align.json").read_text())["rows"]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ckpt": [Path("none")]}, "no checkpoint in none"),
        ({"data_dir": Path("none")}, "no prepared dataset in none"),
        ({"val_dir": Path("none")}, "no prepared dataset in none"),
        ({"depths": [2, 7]}, "--depths 7: .* has 6 blocks"),
        ({"enc_type": "vgg"}, "unknown encoder 'vgg'"),
        ({"path_type": "cosine"}, "--path-type cosine: the checkpoint was trained with linear"),
        ({"model": "SiT-B/2"}, "--model SiT-B/2: .* holds SiT-Ti/8"),
    ],
)
def test_what_does_not_fit_is_said(probe, changes: dict, message: str) -> None:
    with pytest.raises(RepaError, match=message):
        probe(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 10}, "10 images are too few for 10 neighbors"),
        ({"ckpt": None, "enc_type": "none"}, "name some with --enc-type"),
    ],
)
def test_what_cannot_be_compared_is_said(align, changes: dict, message: str) -> None:
    with pytest.raises(RepaError, match=message):
        align(**changes)


def test_a_plain_run_alone_has_no_encoder_to_compare_with(align, runs) -> None:
    with pytest.raises(RepaError, match="no checkpoint was aligned to an encoder"):
        align(ckpt=runs[:1])


def test_broken_weights_are_said(probe, runs, tmp_path: Path) -> None:
    copy = tmp_path / "broken"
    shutil.copytree(list_checkpoints(runs[0])[-1], copy)
    weights = load_file(copy / "ema.safetensors")
    weights["blocks.0.attn.qkv.weight"][0, 0] = float("nan")
    save_file(weights, copy / "ema.safetensors")
    write_checksums(copy)
    with pytest.raises(RepaError, match="hidden states are not finite"):
        probe(ckpt=[copy])


def test_one_checkpoint_is_looked_at_once_however_it_is_named(
    probe, runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned = runs[1]
    (tmp_path / "link").symlink_to(aligned)
    changes = {"depths": 2, "enc_type": "none"}
    names = [
        aligned,
        aligned / ".." / "aligned",
        tmp_path / "link",
        aligned / "checkpoints/0000004",
    ]
    first = of_models(probe(ckpt=names, **changes))
    assert [(row["name"], row["run"]) for row in first] == [("aligned", str(aligned.resolve()))]
    monkeypatch.chdir(aligned.parent)
    assert of_models(probe(ckpt="aligned", **changes)) == first


def test_another_path_for_a_file_that_tells_none_is_another_result(
    align, runs, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pt"
    torch.save(load_model(runs[1])[0].state_dict(), file)
    changes = {"ckpt": file, "depths": 2, "enc_type": ENCODER}
    [linear] = of_models(align(**changes)["rows"])
    [cosine] = of_models(align(**changes, path_type="cosine")["rows"])
    assert (linear["path_type"], cosine["path_type"]) == ("linear", "cosine")
    assert linear["cknna"] != cosine["cknna"]
