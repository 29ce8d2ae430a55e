"""`repa sample`: a checkpoint to PNG files and an npz."""

from __future__ import annotations

import numpy as np
from PIL import Image
from tqdm import tqdm

from repa.autoencoders import create_autoencoder
from repa.checkpoints import load_model
from repa.config import SampleOptions
from repa.devices import pick_device, pick_precision
from repa.diffusion import Interpolant
from repa.errors import RepaError
from repa.randomness import Purpose, stream
from repa.sampling import generate_images


def run_sample(options: SampleOptions) -> None:
    """Writes `--num-fid-samples` images as PNG files and one npz with `arr_0` (N, H, W, 3) uint8.

    Raises:
        RepaError: if the checkpoint, a class or the autoencoder does not fit.
    """
    device = pick_device(options.device)
    model, state = load_model(options.ckpt, options.raw_weights)
    model = model.to(device)
    labels = _labels(options, model.num_classes)
    autoencoder = create_autoencoder(state.autoencoder.name, device)
    folder = options.sample_dir
    folder.mkdir(parents=True, exist_ok=True)

    batches = generate_images(
        model,
        autoencoder,
        labels,
        options,
        options.seed,
        Interpolant(state.options["path_type"]),
        options.per_proc_batch_size,
        pick_precision(options.mixed_precision, device),
    )
    images: list[np.ndarray] = []
    with tqdm(total=len(labels), unit="image", desc="sample") as progress:
        for batch in batches:
            for pixels in batch.permute(0, 2, 3, 1).numpy():  # (H, W, 3)
                Image.fromarray(pixels).save(folder / f"{len(images):06d}.png")
                images.append(pixels)
            progress.update(len(batch))
    archive = folder.with_name(folder.name + ".npz")
    np.savez(archive, arr_0=np.stack(images))
    print(f"{len(images)} images of step {state.step}: {folder} and {archive}")


def _labels(options: SampleOptions, num_classes: int) -> np.ndarray:
    count = options.num_fid_samples
    if options.classes == "random":
        draws = (
            stream(options.seed, Purpose.LABELS, i).integers(num_classes) for i in range(count)
        )
        return np.fromiter(draws, np.int64, count)
    try:
        chosen = [int(label) for label in options.classes.split(",")]
    except ValueError:
        chosen = [-1]
    if not all(0 <= label < num_classes for label in chosen):
        raise RepaError(
            f"--classes {options.classes!r}: random, or labels from 0 to {num_classes - 1} "
            "with commas"
        )
    return np.resize(np.array(chosen, np.int64), count)
