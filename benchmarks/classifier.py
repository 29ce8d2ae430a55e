"""Trains a classifier from scratch, for `repa evaluate --network classifier`.

    python benchmarks/classifier.py --data-dir data/train --test-dir data/test \
        --output classifier.safetensors

On the images of a prepared dataset, randomly shifted by up to 2 pixels and mirrored. The share of
another one's images that it gives their class is printed, and kept in the file. The defaults are
for CIFAR-10, where 10 epochs gave 85.1 % in 216 seconds on two CPU cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repa.data import PreparedDataset
from repa.devices import autocast, pick_device, pick_precision
from repa.errors import RepaError
from repa.evaluation.networks.classifier import prepare_images, read_record, save_classifier
from repa.evaluation.networks.resnet import SmallResNet
from repa.memory import keep_freed_memory

EPOCHS, BATCH, WIDTH = 10, 128, 48
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, SMOOTHING = 0.12, 0.9, 5e-4, 0.1
START, RISE = 0.1, 0.25  # of the highest learning rate, and how long it grows
SHIFT = 2  # pixels
TEST_BATCH = 500


def train_classifier(
    train_dir: Path,
    test_dir: Path,
    output: Path,
    epochs: int = EPOCHS,
    seed: int = 0,
    device: str | None = None,
) -> float:
    """Trains a classifier and writes it; the same seed and number of threads give the same.

    All training images are held in memory.

    Args:
        train_dir: prepared dataset to train on.
        test_dir: prepared dataset of the same classes and resolution to test on.
        output: name that ends in .safetensors; a former classifier there is replaced.
        epochs: how often every training image is seen.
        seed: of weights, order and augmentation.
        device: "cpu", "cuda", or None for CUDA where there is any.

    Returns:
        The share of test images that it gives their class.

    Raises:
        RepaError: if the datasets do not fit each other, or the file must not be written.
    """
    train, test = PreparedDataset(train_dir), PreparedDataset(test_dir)
    _check(train, test, output)
    keep_freed_memory()
    place = pick_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallResNet(train.num_classes, WIDTH)
    network.to(place, memory_format=torch.channels_last)
    _fit(network, *_everything(train, place), epochs, seed)
    accuracy = _accuracy(network, *_everything(test, place))
    classes, resolution = tuple(train.manifest.classes), train.manifest.resolution
    save_classifier(output, network, classes, resolution, accuracy, len(test))
    return accuracy


def _check(train: PreparedDataset, test: PreparedDataset, output: Path) -> None:
    for what in ("classes", "resolution"):
        ours, theirs = (getattr(dataset.manifest, what) for dataset in (train, test))
        if ours != theirs:
            raise RepaError(f"{test.folder} has {what} {theirs}; expected {ours} of {train.folder}")
    if output.suffix != ".safetensors":
        raise RepaError(f"--output {output}: expected a name that ends in .safetensors")
    if output.exists():
        read_record(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepaError(f"--output {output}: {error.strerror}") from None


def _everything(dataset: PreparedDataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (N, 3, R, R) uint8 and labels (N,)."""
    images = torch.from_numpy(dataset.images(range(len(dataset))))
    return images.to(device), torch.tensor(dataset.labels, device=device)


def _fit(network: SmallResNet, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    """SGD with Nesterov momentum; the learning rate rises and falls once (Smith, 2018)."""
    device = images.device
    precision = pick_precision("auto", device)
    if precision == "fp16":  # would need losses to be scaled
        precision = "no"
    optimizer = torch.optim.SGD(
        network.parameters(),
        LEARNING_RATE,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
    )
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cycle(step / steps))
    random, started = torch.Generator().manual_seed(seed), time.perf_counter()
    network.train()
    for epoch in range(1, epochs + 1):
        total = torch.zeros((), device=device)
        for chosen in torch.randperm(len(images), generator=random).split(BATCH):
            rows = chosen.to(device)
            x = _augment(prepare_images(images[rows]), random)
            with autocast(precision, device):
                logits = network(x)
            loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += len(rows) * loss.detach()
        seconds = time.perf_counter() - started
        print(
            f"epoch {epoch}/{epochs}  loss {total.item() / len(images):.3f}  {seconds:.0f} s",
            flush=True,
        )


def _cycle(progress: float) -> float:
    """The learning rate's share of the highest one, after that share of all steps."""
    return min(START + (1 - START) * progress / RISE, (1 - progress) / (1 - RISE))


def _augment(x: Tensor, random: torch.Generator) -> Tensor:
    """Images (N, 3, H, W), each shifted over its reflected border, and half of them mirrored."""
    n, _, height, width = x.shape
    # (N, 3, 9, 9, H, W), a view: every shift of every image
    views = F.pad(x, (SHIFT,) * 4, "reflect").unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * SHIFT + 1, (2, n), generator=random).to(x.device)
    x = views[torch.arange(n, device=x.device), :, down, right]
    mirrored = (torch.rand(n, generator=random) < 0.5).to(x.device)
    x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In float32, as the network judges."""
    network.eval()
    batches: Iterator[Tensor] = (
        network(prepare_images(part).contiguous(memory_format=torch.channels_last))
        for part in images.split(TEST_BATCH)
    )
    return (torch.cat([logits.argmax(1) for logits in batches]) == labels).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--test-dir", type=Path, required=True, help="prepared dataset to test on")
    parser.add_argument("--output", type=Path, required=True, help="NAME.safetensors")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    options = parser.parse_args()
    try:
        accuracy = train_classifier(
            options.data_dir,
            options.test_dir,
            options.output,
            options.epochs,
            options.seed,
            options.device,
        )
    except RepaError as error:
        parser.exit(2, f"error: {error}\n")
    print(f"test accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
