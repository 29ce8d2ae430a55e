"""Evaluation and alignment metrics against their definitions in float64."""

from pathlib import Path

from golden.folder import Golden
from repa.analysis import cka, cknna, mutual_knn
from repa.evaluation import frechet_distance, inception_score, precision_recall


def test_alignment_metrics(golden_dir: Path) -> None:
    golden = Golden(golden_dir / "alignment_metrics.safetensors")
    a, b = golden["features_a"], golden["features_b"]
    golden.check("cka", cka(a, b), 1e-6)
    neighbors = {"cknna": cknna, "mutual_knn": mutual_knn}
    for name, metric in neighbors.items():
        keys = list(golden.keys(name))
        assert keys
        for key in keys:
            golden.check(key, metric(a, b, k=int(key.split(".k")[1])), 1e-6)
    golden.assert_all_used()


def test_evaluation_metrics(golden_dir: Path) -> None:
    golden = Golden(golden_dir / "evaluation_metrics.safetensors")
    real, fake = golden["real_features"], golden["fake_features"]
    golden.check("frechet_distance", frechet_distance(real, fake), 1e-9)
    [precision_key], [recall_key] = golden.keys("precision_k"), golden.keys("recall_k")
    k = int(precision_key.removeprefix("precision_k"))
    precision, recall = precision_recall(real, fake, k)
    golden.check(precision_key, precision, 1e-9)
    golden.check(recall_key, recall, 1e-9)
    probabilities = golden["probabilities"]
    score = inception_score(probabilities, split_size=len(probabilities))
    golden.check("inception_score_single_split", score, 1e-9)
    golden.assert_all_used()
