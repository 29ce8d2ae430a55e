import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.tiny import Tiny, options, save_tiny_classifier
from repa.autoencoders import Pixels
from repa.data import PreparedDataset
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import open_source
from repa.evaluation import frechet_distance, inception_score, precision_recall
from repa.evaluation.evaluate import run_evaluate
from repa.evaluation.images import digest
from repa.evaluation.networks import NETWORKS, create_network

METRICS = list(NETWORKS["inception"].metrics)


@pytest.fixture(scope="module")
def val_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 emoji that are in no training split."""
    folder = tmp_path_factory.mktemp("val") / "prepared"
    source, work = open_source("twemoji-val"), Work(num_workers=0)
    prepare(source, folder, 32, Pixels(), {}, max_images=24, work=work)
    return folder


@pytest.fixture
def npz(tmp_path: Path, val_dir: Path) -> Path:
    """The same as the file that evaluation suites read."""
    images = PreparedDataset(val_dir).images(range(24))
    np.savez(tmp_path / "samples.npz", arr_0=images.transpose(0, 2, 3, 1))
    return tmp_path / "samples.npz"


def test_real_images_are_compared_and_the_result_written(
    tmp_path: Path, emoji_dir: Path, npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results" / "metrics.json"
    run_evaluate(options(emoji_dir, npz, network="efficientnet-lite0", output=output))
    result = json.loads(output.read_text())

    network = create_network("efficientnet-lite0")
    real = network(torch.from_numpy(PreparedDataset(emoji_dir).images(range(64))))
    fake = network(torch.from_numpy(np.load(npz)["arr_0"].transpose(0, 3, 1, 2)))
    precision, recall = precision_recall(real.features, fake.features, 3)
    distance = frechet_distance(real.features, fake.features)
    assert result["frechet_distance"] == pytest.approx(distance, rel=1e-3)
    assert result["precision"] == pytest.approx(precision)
    assert result["recall"] == pytest.approx(recall)
    score = inception_score(fake.probabilities)
    assert result["inception_score"] == pytest.approx(score, rel=1e-3)
    assert result["frechet_distance"] > 1
    assert result["network"] == "efficientnet-lite0"
    assert result["network_weights"] == network.fingerprint
    assert result["samples"] == {"path": str(npz), "sha256": digest(npz), "count": 24}
    assert result["reference"] == {
        "path": str(emoji_dir),
        "sha256": digest(emoji_dir),
        "count": 64,
        "stored_statistics": False,
    }
    assert (result["neighbors"], result["seed"]) == (3, 0)
    assert result["versions"].keys() == {"repa", "torch", "timm"}

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("warning: fewer images than the network's 1280 features")
    assert lines[1] == "note: kernel distance of 24 images a side, not of 1,000"
    printed = dict(line.split(maxsplit=1) for line in lines[2:])
    metrics = NETWORKS["efficientnet-lite0"].metrics
    assert list(printed) == ["network", "samples", "reference", *metrics]
    assert (printed["samples"], printed["reference"]) == ("24 images", "64 images")
    assert len({len(line) - len(line.split(maxsplit=1)[1]) for line in lines[2:]}) == 1
    for name in metrics:
        assert float(printed[name]) == pytest.approx(result[name], abs=1e-5)


def test_a_classifier_tells_how_often_samples_show_their_class(
    tmp_path: Path, emoji_dir: Path, emoji: PreparedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a prepared dataset, and of the same images as samples drawn for other classes."""
    file = save_tiny_classifier(tmp_path / "c.safetensors", tuple(emoji.manifest.classes))
    judge, output = {"network": "classifier", "network_weights": file}, tmp_path / "metrics.json"
    network = create_network("classifier", file)
    images = emoji.images(range(64))
    guesses = network(torch.from_numpy(images)).probabilities.argmax(1).numpy()
    own = (guesses == emoji.labels).mean()
    assert 0 < own < 1

    run_evaluate(options(emoji_dir, emoji_dir, output=output, **judge))
    result = json.loads(output.read_text())
    assert result["class_accuracy"] == pytest.approx(own)
    assert result["network_accuracy"] == 0.75
    assert result["versions"].keys() == {"repa", "torch"}
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:])
    assert printed["network_accuracy"] == "0.7500"
    assert float(printed["class_accuracy"]) == pytest.approx(own, abs=1e-5)

    others = tuple(reversed(emoji.manifest.classes))
    save_tiny_classifier(file, others)
    run_evaluate(options(emoji_dir, emoji_dir, **judge))
    warning = "warning: the classes of the samples are not named as those of classifier: "
    assert capsys.readouterr().out.startswith(warning)

    samples = tmp_path / "samples.npz"
    np.savez(samples, images.transpose(0, 2, 3, 1))
    labels = np.where(np.arange(64) < 48, guesses, (guesses + 1) % 9).tolist()
    for content, expected in (
        ({"request": {}, "labels": labels}, 0.75),
        ({"request": {"prompts": "3f2a"}, "labels": labels}, None),  # numbers of prompts
        ({"request": {}, "labels": labels[1:]}, None),
        ({"request": {}, "labels": [0.5] * 64}, None),
        ({"labels": 3}, None),
        ([], None),
        (None, None),
    ):
        record = samples.with_suffix(".json")
        record.write_text(json.dumps(content))
        if content is None:
            record.unlink()
        run_evaluate(options(emoji_dir, samples, output=output, overwrite=True, **judge))
        assert json.loads(output.read_text()).get("class_accuracy") == expected
        remark = "left out, as the labels of the samples are not known: class_accuracy"
        assert (capsys.readouterr().out.splitlines()[-1] == remark) == (expected is None)


def test_a_set_against_itself_is_perfect(
    tmp_path: Path, val_dir: Path, npz: Path, tiny: None
) -> None:
    run_evaluate(options(val_dir, npz, output=tmp_path / "metrics.json", neighbors=2))
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["fid"] == pytest.approx(0, abs=1e-6)
    assert result["sfid"] == pytest.approx(0, abs=1e-6)
    assert result["precision"] == result["recall"] == 1
    assert result["kid"] < 0  # unbiased
    assert result["neighbors"] == 2
    assert result["versions"].keys() == {"repa", "torch", "timm"}


def test_saved_statistics_give_identical_results(
    tmp_path: Path, emoji_dir: Path, npz: Path, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = tmp_path / "new" / "stats.npz"
    run_evaluate(options(emoji_dir, npz, save_stats=stats, output=tmp_path / "one.json"))
    run_evaluate(options(stats, npz, output=tmp_path / "two.json"))
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert {name: two[name] for name in METRICS} == {name: one[name] for name in METRICS}
    assert two["reference"]["count"] == 64
    assert two["reference"]["stored_statistics"]
    assert two["reference"]["sha256"] == digest(stats)
    assert "reference           64 images, stored statistics" in capsys.readouterr().out


def test_adms_statistics_decide_frechet_distances_alone(
    tmp_path: Path, emoji_dir: Path, npz: Path, tiny: None
) -> None:
    """The reference file's statistics, of all training images, and its images, of some of them."""
    images = PreparedDataset(emoji_dir).images(range(64)).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "images.npz", arr_0=images)
    stored = {"mu": np.zeros(6), "sigma": np.eye(6), "mu_s": np.zeros(5), "sigma_s": np.eye(5)}
    np.savez(tmp_path / "adm.npz", arr_0=images, **stored)
    np.savez(tmp_path / "bare.npz", **stored)
    results = {}
    for name in ("images", "adm", "bare"):
        output = tmp_path / f"{name}.json"
        run_evaluate(options(tmp_path / f"{name}.npz", npz, output=output))
        results[name] = json.loads(output.read_text())
    for name in ("precision", "recall", "kid", "inception_score"):
        assert results["adm"][name] == results["images"][name]
    for name in ("fid", "sfid"):
        assert results["adm"][name] == results["bare"][name] != results["images"][name]
    assert results["adm"]["reference"]["count"] == 64
    assert results["adm"]["reference"]["stored_statistics"]


def test_metrics_that_bare_statistics_do_not_allow_are_named(
    tmp_path: Path, npz: Path, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "bare.npz", mu=np.zeros(6), sigma=np.eye(6))
    run_evaluate(options(tmp_path / "bare.npz", npz, output=tmp_path / "metrics.json"))
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith("left out, ")
    assert printed.splitlines()[-1].endswith(": sfid, precision, recall, kid")
    assert "reference           stored statistics" in printed
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert set(METRICS) & result.keys() == {"fid", "inception_score"}
    assert result["reference"]["count"] is None


def test_the_distance_of_few_images_is_warned_of(
    emoji_dir: Path, tmp_path: Path, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    images = PreparedDataset(emoji_dir).images(range(8)).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "six.npz", images[:6])
    np.savez(tmp_path / "seven.npz", images[:7])
    warning = "warning: fewer images than the network's 6 features"
    for samples, reference, warned in (
        ("seven.npz", emoji_dir, False),
        ("six.npz", emoji_dir, True),
        (emoji_dir, "six.npz", True),
    ):
        run_evaluate(options(tmp_path / reference, tmp_path / samples))
        assert (warning in capsys.readouterr().out) == warned


def test_images_of_other_shapes_are_compared_and_remarked(
    tmp_path: Path, emoji_dir: Path, tiny: None, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 12, 3), np.uint8)
    np.savez(tmp_path / "wide.npz", images)
    run_evaluate(options(emoji_dir, tmp_path / "wide.npz"))
    printed = capsys.readouterr().out
    assert "warning: the samples are 12x8, distorted to a square\n" in printed
    assert "note: samples are 12x8, the reference is 32x32\n" in printed
    run_evaluate(options(tmp_path / "wide.npz", tmp_path / "wide.npz", network="clip"))
    printed = capsys.readouterr().out
    assert "warning: the reference is 12x8, cropped to a square\n" in printed
    assert "note:" not in printed
    run_evaluate(options(emoji_dir, emoji_dir))
    assert "square" not in capsys.readouterr().out


def test_a_folder_of_files_is_compared(tmp_path: Path, emoji_dir: Path, tiny: None) -> None:
    (tmp_path / "files").mkdir()
    images = PreparedDataset(emoji_dir).images(range(10)).transpose(0, 2, 3, 1)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "files" / f"{i}.png")
    np.savez(tmp_path / "x.npz", images)
    results = []
    for samples in ("files", "x.npz"):
        output = tmp_path / f"{samples}.json"
        run_evaluate(options(emoji_dir, tmp_path / samples, output=output))
        results.append(json.loads(output.read_text()))
    assert [results[0][name] for name in METRICS] == [results[1][name] for name in METRICS]


def test_the_weights_of_a_file_are_used(
    emoji_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def create(name: str, weights: Path) -> Tiny:
        given.append((name, weights))
        return Tiny(name)

    monkeypatch.setattr("repa.evaluation.evaluate.create_network", create)
    run_evaluate(options(emoji_dir, emoji_dir, network="clip", network_weights=tmp_path / "x"))
    assert given == [("clip", tmp_path / "x")]


def test_how_samples_were_drawn_is_in_the_result(
    tmp_path: Path, emoji_dir: Path, npz: Path
) -> None:
    output = tmp_path / "metrics.json"
    record = npz.with_suffix(".json")
    for content, expected in (
        (
            b'{"request": {"step": 7, "cfg_scale": 1.5}, "labels": [0]}',
            {"step": 7, "cfg_scale": 1.5},
        ),
        (b'{"other": 1}', None),
        (b"\xff", None),
    ):
        record.write_bytes(content)
        run_evaluate(options(emoji_dir, npz, network="efficientnet-lite0", output=output))
        assert json.loads(output.read_text())["samples"].get("drawn") == expected
