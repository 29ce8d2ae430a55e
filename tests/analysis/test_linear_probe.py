import torch

from repa.analysis import linear_probe


def blobs(n: int, classes: int, dims: int, noise: float, seed: int) -> tuple:
    centers = torch.randn(classes, dims, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    return centers[labels] + noise * torch.randn(n, dims, generator=generator), labels


def test_separable_classes_are_separated() -> None:
    train, test = blobs(300, 5, 16, 0.1, 1), blobs(100, 5, 16, 0.1, 2)
    assert linear_probe(*train, *test) == 1


def test_features_without_information_give_chance() -> None:
    labels = torch.arange(400) % 4
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 8, generator=generator)
    assert linear_probe(features[:300], labels[:300], features[300:], labels[300:]) < 0.45


def test_more_noise_reads_worse() -> None:
    accuracies = [
        linear_probe(*blobs(300, 5, 16, noise, 1), *blobs(200, 5, 16, noise, 2))
        for noise in (0.5, 1.5, 5.0)
    ]
    assert accuracies[0] > accuracies[1] > accuracies[2]


def test_scale_of_the_features_does_not_matter_and_nothing_is_random() -> None:
    train, test = blobs(300, 5, 16, 1.0, 1), blobs(100, 5, 16, 1.0, 2)
    scaled = linear_probe(1000 * train[0] + 5, train[1], 1000 * test[0] + 5, test[1])
    assert scaled == linear_probe(*train, *test) == linear_probe(*train, *test)


def test_a_constant_feature_does_no_harm() -> None:
    (x, y), (x_test, y_test) = blobs(300, 3, 8, 0.1, 1), blobs(50, 3, 8, 0.1, 2)
    x, x_test = (torch.cat([f, torch.ones(len(f), 1)], 1) for f in (x, x_test))
    assert linear_probe(x, y, x_test, y_test) == 1
