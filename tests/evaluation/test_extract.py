import pytest
import torch
from torch import Tensor, nn

from repa.errors import RepaError
from repa.evaluation.extract import extract, full_precision, gather
from repa.evaluation.networks import Features, Network


class Means(Network):
    """The mean of each channel, and what the network ran under."""

    def __init__(self) -> None:
        super().__init__("means", nn.Linear(3, 3), dim=3)
        self.batches = 0

    def forward(self, images: Tensor) -> Features:
        self.batches += 1
        self.tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
        self.grad = torch.is_grad_enabled()
        means = images.double().mean((2, 3))
        self.product = self.network(means.float()).dtype
        return Features(means, probabilities=means.softmax(1))


def test_batches_are_put_together_in_order_and_in_float32() -> None:
    images = torch.randint(256, (10, 3, 4, 4), dtype=torch.uint8)
    network = Means()
    features = extract(network, images.split(4))
    assert network.batches == 3
    assert features.features.dtype == torch.float32
    torch.testing.assert_close(features.features, images.float().mean((2, 3)))
    torch.testing.assert_close(features.probabilities, images.float().mean((2, 3)).softmax(1))
    assert features.spatial is None
    assert len(features) == 10


def test_no_batch_gives_no_row() -> None:
    features = extract(Means(), [])
    assert features.features.shape == (0, 3)
    assert features.probabilities is not None
    assert features.probabilities.shape == (0, 3)


def test_it_runs_in_full_precision_whatever_the_caller_does() -> None:
    network = Means()
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast("cpu", torch.bfloat16):
            extract(network, [torch.zeros(1, 3, 2, 2, dtype=torch.uint8)])
            assert network.network(torch.zeros(1, 3)).dtype == torch.bfloat16
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
        assert (network.tf32, network.grad, network.product) == (False, False, torch.float32)
        with pytest.raises(ZeroDivisionError), full_precision(torch.device("cpu")):
            raise ZeroDivisionError
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])  # 1e39 is none in float32
@pytest.mark.parametrize("part", ["features", "spatial", "probabilities"])
def test_features_that_are_not_finite_are_one_clear_line(value: float, part: str) -> None:
    class Broken(Means):
        def forward(self, images: Tensor) -> Features:
            parts = {"features": torch.ones(2, 3), part: torch.ones(2, 3, dtype=torch.float64)}
            parts[part][1, 2] = value
            return Features(**parts)

    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    message = r"^means gives features of %s that are not finite numbers: [^\n]*$"
    with pytest.raises(RepaError, match=message % "these images"):
        extract(Broken(), [images])
    with pytest.raises(RepaError, match=message % "the samples x.npz"):
        extract(Broken(), [images], title="the samples x.npz")


def test_one_process_has_gathered_already() -> None:
    features = Features(torch.randn(3, 2))
    assert gather(features).features is features.features
