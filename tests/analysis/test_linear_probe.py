import importlib

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from repa.analysis import linear_probe, linear_probes
from repa.analysis.hidden_states import hidden_states
from repa.autoencoders import Pixels
from repa.data import PreparedDataset
from repa.data.prepare import prepare
from repa.data.share import Work
from repa.data.sources import open_source
from repa.diffusion import FlowMatching
from repa.errors import RepaError
from repa.models import SiT

module = importlib.import_module("repa.analysis.linear_probe")  # the package has its function


def blobs(n: int, classes: int, dims: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    centers = torch.randn(classes, dims, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    return centers[labels] + noise * torch.randn(n, dims, generator=generator), labels


def three_layers(noises: tuple[float, ...] = (0.5, 1.5, 5.0)) -> tuple[Tensor, ...]:
    train, test = ([blobs(n, 5, 16, noise, seed) for noise in noises]
                   for n, seed in ((300, 1), (200, 2)))  # fmt: skip
    train_x, test_x = (torch.stack([features for features, _ in part]) for part in (train, test))
    return train_x, train[0][1], test_x, test[0][1]


def test_separable_classes_are_separated() -> None:
    train, test = blobs(300, 5, 16, 0.1, 1), blobs(100, 5, 16, 0.1, 2)
    assert linear_probe(*train, *test) == 1


def test_features_without_information_give_chance() -> None:
    labels = torch.arange(400) % 4
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 8, generator=generator)
    assert linear_probe(features[:300], labels[:300], features[300:], labels[300:]) < 0.45


def test_more_noise_reads_worse() -> None:
    clean, noisy, noise = linear_probes(*three_layers())
    assert clean.top1 > noisy.top1 > noise.top1
    assert clean.top5 == noisy.top5 == noise.top5 == 1  # of 5 classes


def test_what_differs_in_a_thousandth_of_the_deviation_is_read() -> None:
    """Where gradient descent without the principal axes stays at chance for long."""
    (x, y), (test_x, test_y) = blobs(400, 4, 8, 0.3, 1), blobs(200, 4, 8, 0.3, 2)
    generator = torch.Generator().manual_seed(3)

    def hidden(signal: Tensor) -> Tensor:
        common = torch.randn(len(signal), 1, generator=generator)
        return common + 1e-3 * signal

    assert linear_probe(hidden(x), y, hidden(test_x), test_y) > 0.9


def test_scale_of_the_features_does_not_matter() -> None:
    train, test = blobs(300, 5, 16, 1.0, 1), blobs(100, 5, 16, 1.0, 2)
    scaled = linear_probe(1000 * train[0] + 5, train[1], 1000 * test[0] + 5, test[1])
    assert scaled == pytest.approx(linear_probe(*train, *test), abs=0.02)


def test_the_seed_decides_and_no_other_random_stream_is_touched() -> None:
    data = three_layers()
    before = torch.get_rng_state()
    first = linear_probes(*data, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert linear_probes(*data, seed=1) == first
    orders = [next(module._batches(torch.arange(300), 256, seed)) for seed in (1, 1, 2)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert len(orders[0].unique()) == 256


def test_layers_do_not_influence_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, test_x, test_y = three_layers()
    together = linear_probes(x, y, test_x, test_y)
    alone = [linear_probes(x[[i]], y, test_x[[i]], test_y)[0] for i in range(3)]
    monkeypatch.setattr(module, "GROUP_BYTES", 1)  # features stay where they are, too
    in_groups = linear_probes(x, y, test_x, test_y)
    for others in (alone, in_groups):
        for a, b in zip(together, others, strict=True):
            assert a.top1 == pytest.approx(b.top1, abs=0.011)


def test_the_pair_is_chosen_on_held_out_training_rows() -> None:
    x, y, test_x, test_y = three_layers((0.3, 3.0, 30.0))
    results = linear_probes(x, y, test_x, test_y)
    assert {(r.learning_rate, r.weight_decay) for r in results} <= set(module.GRID)
    assert results[0].weight_decay < results[1].weight_decay  # noise wants more of it
    blind = linear_probes(x, y, test_x, test_y.roll(1))
    for seen, unseen in zip(results, blind, strict=True):
        assert (seen.learning_rate, seen.weight_decay) == (
            unseen.learning_rate,
            unseen.weight_decay,
        )
    wrong = y.clone()
    wrong[4::5] = (wrong[4::5] + 1) % 5  # every fifth row, which chooses, is wrong
    misled = linear_probes(x, wrong, test_x, test_y)
    assert misled[0].weight_decay != results[0].weight_decay


def test_of_fewer_than_five_classes_the_second_accuracy_is_over_all() -> None:
    train, test = blobs(300, 3, 8, 3.0, 1), blobs(100, 3, 8, 3.0, 2)
    [result] = linear_probes(train[0][None], train[1], test[0][None], test[1])
    assert result.top1 < result.top5 == 1


def test_five_guesses_of_many_classes_are_more_than_one_and_not_all() -> None:
    train, test = blobs(500, 20, 16, 3.0, 1), blobs(300, 20, 16, 3.0, 2)
    [result] = linear_probes(train[0][None], train[1], test[0][None], test[1])
    assert 1 / 20 < result.top1 < result.top5 < 1


def test_a_class_that_training_lacks_is_missed() -> None:
    (x, y), (test_x, test_y) = blobs(300, 3, 8, 0.1, 1), blobs(60, 3, 8, 0.1, 2)
    test_y = torch.where(torch.arange(60) < 15, 7, test_y)
    assert linear_probe(x, y, test_x, test_y) == 0.75


def test_constant_features_do_no_harm() -> None:
    (x, y), (x_test, y_test) = blobs(300, 3, 8, 0.1, 1), blobs(50, 3, 8, 0.1, 2)
    x, x_test = (torch.cat([f, torch.full((len(f), 5), 1e4 / 3)], 1) for f in (x, x_test))
    assert linear_probe(x, y, x_test, y_test) == 1
    assert linear_probe(x.double(), y, x_test.double(), y_test) == 1
    assert linear_probe(x.half(), y, x_test.half(), y_test) == 1


@pytest.fixture(scope="module")
def real_layers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    """600 emoji as two blocks of a SiT with random weights see them, (2, 600, 96), and labels.

    Their states are as ill-conditioned as those of a real one early in training.
    """
    folder = tmp_path_factory.mktemp("probing") / "prepared"
    work = Work(num_workers=0)
    prepare(open_source("twemoji"), folder, 32, Pixels(), {}, max_images=600, work=work)
    emoji = PreparedDataset(folder)
    torch.manual_seed(0)
    model = SiT(input_size=32, patch_size=8, in_channels=3, hidden_size=96, depth=2, num_heads=2,
                num_classes=emoji.num_classes)  # fmt: skip
    for block in model.blocks:
        torch.nn.init.normal_(block.adaLN_modulation[1].weight, std=0.05)
    every = range(len(emoji))
    states = hidden_states(model, emoji, every, (1, 2), FlowMatching(), time=0.1)
    return states, torch.from_numpy(emoji.labels)


def scipy_fit(x: np.ndarray, y: np.ndarray, classes: int, decay: float) -> tuple[np.ndarray, float]:
    """Weights (D + 1, C) that minimize the objective, and its minimum, in float64."""
    inputs = np.concatenate([x, np.ones((len(x), 1))], 1)
    is_weight = (np.arange(inputs.shape[1]) < x.shape[1])[:, None]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(-1, classes)
        logits = inputs @ weights
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        error = np.exp(logits) - np.eye(classes)[y]
        loss = -logits[np.arange(len(y)), y].mean()
        loss += decay / 2 * (weights**2 * is_weight).sum()
        return loss, (inputs.T @ error / len(y) + decay * is_weight * weights).ravel()

    start = np.zeros(inputs.shape[1] * classes)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return found.x.reshape(-1, classes), found.fun


def scipy_probe(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor) -> float:
    """Top-1 of the optimum, with the weight decay that does best on every fifth training row."""
    mean, std = x.mean(0), x.std(0)
    train, test = (((part - mean) / std).double().numpy() for part in (x, test_x))
    labels, classes = y.numpy(), int(y.max()) + 1
    held_out = np.arange(len(labels)) % 5 == 4

    def top1(fit: np.ndarray, judge: np.ndarray, truth: np.ndarray, decay: float) -> float:
        weights, _ = scipy_fit(train[fit], labels[fit], classes, decay)
        return ((judge @ weights[:-1] + weights[-1]).argmax(1) == truth).mean()

    decays = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    best = max(decays, key=lambda d: top1(~held_out, train[held_out], labels[held_out], d))
    return top1(held_out | True, test, test_y.numpy(), best)


def test_real_images_are_classified_as_well_as_by_scipys_minimizer(
    real_layers: tuple[Tensor, Tensor],
) -> None:
    states, labels = real_layers
    tests = torch.arange(len(labels)) % 3 == 0
    y, test_y = labels[~tests], labels[tests]
    ours = [result.top1 for result in linear_probes(states[:, ~tests], y, states[:, tests], test_y)]
    theirs = [scipy_probe(layer[~tests], y, layer[tests], test_y) for layer in states]
    assert min(theirs) > labels.bincount().max() / len(labels) + 0.05  # better than one answer
    assert np.mean(ours) > np.mean(theirs) - 0.02


@pytest.mark.parametrize("decay", [1e-3, 1e-1])
def test_the_weights_are_at_the_optimum_that_scipy_finds(
    real_layers: tuple[Tensor, Tensor], decay: float
) -> None:
    states, labels = real_layers
    classes = int(labels.max()) + 1
    mean, rotation, variances = module._principal_axes(states, torch.device("cpu"))
    x = module._rotated(states, mean, rotation)
    pairs = torch.tensor([[[0.03, decay], [0.3, decay]]]).expand(2, -1, -1)
    rows = torch.arange(len(labels))
    weights = module._train(x, labels, rows, classes, variances, pairs, 0).double()
    logits = torch.einsum("lnd,ldgc->lgnc", x.double(), weights)
    loss = logits.logsumexp(3) - logits[:, :, rows, labels]
    ours = loss.mean(2) + decay / 2 * weights[:, :-1].square().sum((1, 3))  # (L, G)
    for layer, found in zip(states.double(), ours, strict=True):
        standardized = ((layer - layer.mean(0)) / layer.std(0, correction=0)).numpy()
        _, best = scipy_fit(standardized, labels.numpy(), classes, decay)
        assert found.tolist() == pytest.approx([best, best], rel=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("place", [0, 2])
def test_features_that_are_not_finite_are_one_clear_line(value: float, place: int) -> None:
    data = list(three_layers())
    data[place][1, 3, 5] = value
    if place == 2 and value == 1e30:  # a wild test image is only missed
        assert linear_probes(*data)[1].top1 < 1
        return
    with pytest.raises(RepaError, match=r"^linear probing: features are not finite[^\n]*$"):
        linear_probes(*data)


def test_images_that_cannot_be_probed_are_one_clear_line() -> None:
    x, y, test_x, test_y = three_layers()
    with pytest.raises(RepaError, match="needs 10 training images or more.*got 9 and 200"):
        linear_probes(x[:, :9], y[:9], test_x, test_y)
    with pytest.raises(RepaError, match="got 300 and 0"):
        linear_probes(x, y, test_x[:, :0], test_y[:0])
    with pytest.raises(RepaError, match="all 300 training images have label 4"):
        linear_probes(x, torch.full_like(y, 4), test_x, test_y)


def test_shapes_and_labels_that_do_not_fit_are_refused() -> None:
    x, y, test_x, test_y = three_layers()
    for broken in (
        (x[0], y, test_x, test_y),
        (x, y[1:], test_x, test_y),
        (x[:2], y, test_x, test_y),
        (x[..., :8], y, test_x, test_y),
        (x, y, test_x, test_y[:, None]),
    ):
        with pytest.raises(ValueError, match=r"need \(L, N, D\), \(N,\), \(L, M, D\), \(M,\); got"):
            linear_probes(*broken)
    with pytest.raises(ValueError, match="negative"):
        linear_probes(x, y - 1, test_x, test_y)


def test_few_rows_are_enough() -> None:
    x, y = blobs(10, 2, 3, 0.1, 1)
    assert linear_probe(x, y, x, y) == 1
