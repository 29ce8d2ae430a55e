import pytest
import torch

from repa.evaluation import (
    Gaussian,
    cmmd,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from repa.evaluation.class_accuracy import class_accuracy
from repa.evaluation.compare import compare
from repa.evaluation.networks import NETWORKS, Features
from repa.evaluation.statistics import Reference


def features(count: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 6, generator=generator)
    return Features(rows, rows[:, :4] ** 2, rows[:, :5].softmax(1))


REAL, FAKE = features(30, 0), features(20, 1)
assert REAL.spatial is not None
assert FAKE.spatial is not None
assert FAKE.probabilities is not None
DISTANCE = frechet_distance(REAL.features, FAKE.features)
PRECISION, RECALL = precision_recall(REAL.features, FAKE.features, 2)
SCORE = inception_score(FAKE.probabilities)
LABELS = torch.arange(20) % 5
GENERAL = {
    "frechet_distance": DISTANCE,
    "precision": PRECISION,
    "recall": RECALL,
    "inception_score": SCORE,
    "kernel_distance": kernel_distance(REAL.features, FAKE.features, seed=5),
}
EXPECTED = {
    "inception": {
        "fid": DISTANCE,
        "sfid": frechet_distance(REAL.spatial, FAKE.spatial),
        "inception_score": SCORE,
        "precision": PRECISION,
        "recall": RECALL,
        "kid": kernel_distance(REAL.features, FAKE.features, seed=5),
    },
    "dinov2": {"fd_dinov2": DISTANCE, "precision": PRECISION, "recall": RECALL},
    "clip": {"cmmd": cmmd(REAL.features, FAKE.features)},
    "efficientnet-lite2": GENERAL,
    "classifier": {**GENERAL, "class_accuracy": class_accuracy(FAKE.probabilities, LABELS)},
}


@pytest.mark.parametrize("network", EXPECTED)
def test_each_network_has_its_metrics(network: str) -> None:
    metrics = NETWORKS[network].metrics
    result = compare(Reference.fit(REAL), FAKE, metrics, k=2, seed=5, labels=LABELS)
    assert list(result) == list(metrics)
    assert result == pytest.approx(EXPECTED[network], rel=1e-9)


def test_every_network_has_metrics() -> None:
    for row in NETWORKS.values():
        result = compare(Reference.fit(REAL), FAKE, row.metrics, labels=LABELS)
        assert result.keys() == set(row.metrics)


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repa.evaluation.compare.precision_recall", None)
    monkeypatch.setattr("repa.evaluation.compare.kernel_distance", None)
    assert compare(Reference.fit(REAL), FAKE, ["fid"]) == {"fid": pytest.approx(DISTANCE)}


@pytest.mark.parametrize(("order", "value"), [("precision", PRECISION), ("recall", RECALL)])
def test_one_of_precision_and_recall_alone(order: str, value: float) -> None:
    assert compare(Reference.fit(REAL), FAKE, [order], k=2) == {order: value}


def test_bare_statistics_allow_frechet_distances_only() -> None:
    gaussian = Gaussian.fit(REAL.features)
    result = compare(Reference(gaussian), FAKE, NETWORKS["inception"].metrics)
    assert result == {"fid": pytest.approx(DISTANCE), "inception_score": SCORE}
    assert compare(Reference(gaussian), FAKE, NETWORKS["clip"].metrics) == {}


def test_without_labels_there_is_no_accuracy_of_classes() -> None:
    metrics = ["inception_score", "class_accuracy"]
    assert compare(Reference.fit(REAL), FAKE, metrics) == {"inception_score": SCORE}


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown metric 'lpips'"):
        compare(Reference.fit(REAL), FAKE, ["lpips"])
