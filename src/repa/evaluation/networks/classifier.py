"""A classifier of the dataset's own classes as a judge, trained from scratch on its images.

`benchmarks/classifier.py` trains one. Its file is safetensors: the weights of `SmallResNet`, and in
the metadata, under the name of the format, a `ClassifierRecord` as JSON.
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from repa.config.base import Probability
from repa.devices import in_slices
from repa.encoders.base import HALF
from repa.errors import RepaError
from repa.evaluation.networks.base import Features, Network, normalize
from repa.evaluation.networks.resnet import SmallResNet
from repa.files import write_atomically
from repa.weights import fingerprint, load_weights, read_weights

FORMAT = "repa-classifier-1"
CPU_SLICE = 64  # images


class ClassifierRecord(BaseModel):
    """What a classifier is: the sizes of its network, and how often it is right.

    Attributes:
        classes: names, in the order of the labels.
        resolution: side of the images it was trained on, in pixels.
        width: of the `SmallResNet`.
        test_accuracy: share of images, none of them trained on, that it gave their class.
        test_images: how many these were.
        weights: fingerprint of the weights, which tells damage.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: tuple[str, ...] = Field(min_length=2)
    resolution: PositiveInt = Field(le=4096)
    width: PositiveInt = Field(le=1024, multiple_of=2)
    test_accuracy: Probability
    test_images: PositiveInt
    weights: str


class Classifier(Network):
    """The pooled features of a `SmallResNet` (6 widths), and the probabilities of its classes."""

    library = "repa"

    def __init__(self, name: str, network: SmallResNet, record: ClassifierRecord):
        super().__init__(name, network, network.dim)
        self.input_size = record.resolution
        self.classes = record.classes
        self.accuracy = record.test_accuracy

    def forward(self, images: Tensor) -> Features:
        """Images (N, 3, H, W) uint8 to features (N, D) and probabilities (N, classes)."""
        x, size = prepare_images(images), (self.input_size, self.input_size)
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True)
        features = in_slices(self.network.features, x, CPU_SLICE)
        return Features(features, probabilities=self.network.classifier(features).softmax(-1))


def prepare_images(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) uint8 as the network takes them: float32 in [-1, 1]."""
    return normalize(images, HALF, HALF)


def load(name: str, weights: Path | None) -> Classifier:
    """The classifier in a file of `save_classifier`'s.

    Raises:
        RepaError: if no file is given, or it holds none, or is damaged.
    """
    if weights is None:
        raise RepaError(
            f"{name} has no weights of its own: train one with benchmarks/classifier.py, and give "
            "its file as --network-weights (--eval-network-weights in training)"
        )
    record = read_record(weights)
    state = read_weights(weights)
    if fingerprint(state) != record.weights:
        raise RepaError(f"{weights} is damaged: its weights are not those that were saved")
    network = SmallResNet(len(record.classes), record.width)
    load_weights(network, state, weights)
    return Classifier(name, network, record)


def read_record(path: Path) -> ClassifierRecord:
    """What the file of a classifier says of it.

    Raises:
        RepaError: if it is no such file.
    """
    expected = "expected a file that benchmarks/classifier.py wrote"
    if not path.is_file():
        raise RepaError(f"no weight file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except Exception as error:  # broken bytes raise almost anything
        raise RepaError(f"{path} is no readable safetensors file ({error}): {expected}") from None
    if FORMAT not in metadata:
        raise RepaError(f"{path} holds no classifier (format {FORMAT}): {expected}")
    try:
        return ClassifierRecord.model_validate_json(metadata[FORMAT])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise RepaError(
            f"{path}: what it says of the classifier is wrong: {where}: {first['msg']}"
        ) from None


def save_classifier(
    path: Path,
    network: SmallResNet,
    classes: tuple[str, ...],
    resolution: int,
    test_accuracy: float,
    test_images: int,
) -> None:
    """Writes a classifier, whole or not at all.

    Args:
        path: ends in .safetensors.
        network: on any device.
        classes, resolution, test_accuracy, test_images: see `ClassifierRecord`.

    Raises:
        RepaError: if it cannot be written.
    """
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    record = ClassifierRecord(
        classes=classes,
        resolution=resolution,
        width=network.width,
        test_accuracy=test_accuracy,
        test_images=test_images,
        weights=fingerprint(state),
    )
    metadata = {FORMAT: record.model_dump_json()}  # several would come in a random order
    try:
        write_atomically(path, save(state, metadata))
    except OSError as error:
        raise RepaError(f"{path} cannot be written: {error.strerror}") from None
