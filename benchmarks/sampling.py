"""Sampling, ours and the release's, of the same weights and noise in one run.

    python benchmarks/sampling.py [--against RELEASE] [--model SiT-B/2] [--batch 2]
        [--mode sde] [--steps 10] [--scale 1.8] [--low 0] [--high 0.7] [--decode]
        [--ours fp32 bf16 bf16+compile ...] [--release fp32] [--rounds 3] [--json OUT]

A way of ours is a precision (fp32, tf32, bf16), then perhaps `+compile`, as `repa sample` takes
them; the release's is its model, with a head, and its sampler, from a checkout. Each way has a
process of its own; batches alternate, and medians are compared. With `--decode` they include
decoding by an autoencoder of SD-VAE's architecture with random weights (on a CPU an eighth as
wide).

Of the first batch, which is not timed, the noise is the release's stream. Its latents are compared
with those of ours in fp32, and the rows that the model has seen must be those that guidance on the
interval needs: twice the batch at guided steps, once elsewhere.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import Make, Measured, in_turn
from release import release_sampler
from result import write_result
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repa.autoencoders import create_autoencoder, to_uint8
from repa.config import Precision, SamplerOptions
from repa.diffusion import FlowMatching
from repa.models import create_model
from repa.sampling.generate import cast_weights, generate_latents
from repa.sampling.noise import ImageNoise, OfficialStream

PRECISIONS: dict[str, Precision] = {"fp32": "no", "tf32": "no", "bf16": "bf16"}
REFERENCE = "ours fp32"
TOLERANCE = 1e-4  # of fp32's latents
SEED, CLASSES, LATENT = 0, 1000, (4, 32, 32)


@dataclass(frozen=True)
class Setting:
    """What every way draws.

    Attributes:
        model: its name.
        sampler: method, steps and guidance.
        batch: images.
        folder: has `weights.safetensors` of the model; the first batches' latents go there.
        vae: folder of the autoencoder, if it decodes.
    """

    model: str
    sampler: SamplerOptions
    batch: int
    folder: Path
    vae: Path | None

    def keep(self, way: str, latents: Tensor, rows: int) -> None:
        """Latents of the first batch, and how many rows the model has seen for them."""
        np.savez(self.folder / f"{way}.npz", latents=latents.double().cpu().numpy(), rows=rows)

    def kept(self, way: str) -> tuple[np.ndarray, int]:
        with np.load(self.folder / f"{way}.npz") as arrays:
            return arrays["latents"], int(arrays["rows"])


class Counted:
    """A model that counts the rows it is given."""

    def __init__(self, model: nn.Module):
        self.model, self.rows = model, 0

    def __call__(self, x: Tensor, *arguments: Any, **named: Any) -> Any:
        self.rows += len(x)
        return self.model(x, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        setting = prepare(arguments, Path(folder))
        ways: dict[str, Make] = {
            f"ours {name}": partial(our_way, setting, name) for name in arguments.ours
        }
        if arguments.against is not None:
            name = f"release {arguments.release}"
            ways[name] = partial(their_way, setting, name, arguments.against)
        measured = in_turn(ways, arguments.rounds, warmup=1)
        rows = [row(setting, name, taken) for name, taken in measured.items()]
    for line in rows:
        line["ratio"] = line["images_per_second"] / rows[-1]["images_per_second"]
    report(rows)
    write_result(arguments, ways=rows)
    for line in rows:
        if line["way"].split()[1].startswith("fp32") and line["max_difference"] > TOLERANCE:
            raise SystemExit(f"{line['way']}: its latents differ by more than {TOLERANCE:g}")


def parse() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, help="checkout of the release")
    parser.add_argument("--model", default="SiT-B/2")
    parser.add_argument("--batch", type=int, default=64 if on_gpu else 2)
    parser.add_argument("--mode", default="sde", choices=("ode", "sde"))
    parser.add_argument("--steps", type=int, help="on CUDA 50 (ode) or 250 (sde), else 10")
    parser.add_argument("--scale", type=float, default=1.8)
    parser.add_argument("--low", type=float, default=0.0)
    parser.add_argument("--high", type=float, default=0.7)
    parser.add_argument("--decode", action="store_true", help="time decoding, too")
    known = [name + end for name in PRECISIONS for end in ("", "+compile")]
    default = ["fp32", "tf32", "bf16", "bf16+compile"] if on_gpu else ["fp32", "bf16"]
    parser.add_argument("--ours", nargs="+", choices=known, default=default)
    parser.add_argument(
        "--release", default="tf32" if on_gpu else "fp32", choices=("fp32", "tf32"),
        help="tf32 is its default",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5 if on_gpu else 3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if "fp32" not in arguments.ours:
        parser.error("--ours: fp32 must be among them, as the others are compared with it")
    if arguments.steps is None:
        arguments.steps = {"ode": 50, "sde": 250}[arguments.mode] if on_gpu else 10
    return arguments


def prepare(arguments: argparse.Namespace, folder: Path) -> Setting:
    """Writes the weights, all of them random."""
    torch.manual_seed(SEED)
    model = create_model(arguments.model, input_size=32, in_channels=4, num_classes=CLASSES)
    for parameter in model.parameters():
        if not parameter.any():  # zero at the start: the output would be zero, too
            nn.init.normal_(parameter, std=0.02)
    save_file(model.state_dict(), folder / "weights.safetensors")
    vae = None
    if arguments.decode:
        vae = folder / "vae"
        write_random_vae(vae, 128 if torch.cuda.is_available() else 16)
    sampler = SamplerOptions(
        mode=arguments.mode,
        num_steps=arguments.steps,
        cfg_scale=arguments.scale,
        guidance_low=arguments.low,
        guidance_high=arguments.high,
    )
    return Setting(arguments.model, sampler, arguments.batch, folder, vae)


def write_random_vae(folder: Path, width: int) -> None:
    """An autoencoder of SD-VAE's architecture, whose own width is 128."""
    from diffusers import AutoencoderKL

    AutoencoderKL(
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=min(32, width),
        latent_channels=LATENT[0],
    ).save_pretrained(folder)


def our_way(setting: Setting, name: str) -> Callable[[], None]:
    """A batch of `repa sample`."""
    wanted, _, compiled = name.partition("+")
    precision, device = PRECISIONS[wanted], pick_device()
    torch.backends.cuda.matmul.allow_tf32 = wanted == "tf32"
    torch.backends.cudnn.allow_tf32 = wanted != "fp32"  # decoding, as the command has it
    model = create_model(setting.model, input_size=32, in_channels=4, num_classes=CLASSES)
    model.load_state_dict(load_file(setting.folder / "weights.safetensors"))
    cast_weights(model.eval(), precision)
    model = model.to(device)
    if compiled:
        model.compile(dynamic=False)
    autoencoder = create_autoencoder(str(setting.vae), device) if setting.vae else None
    counted = Counted(model)
    official = OfficialStream(SEED, 0, 1, (setting.batch, *LATENT), CLASSES, device)
    labels = official.next_batch()
    numbers = count()

    def step() -> None:
        number = next(numbers)
        indices = range(number * setting.batch, (number + 1) * setting.batch)
        noise = official if number == 0 else ImageNoise(SEED, indices, LATENT, device)
        latents = generate_latents(
            counted, labels, noise, setting.sampler, FlowMatching(), precision
        )
        if number == 0:
            needed = needed_rows(setting.sampler, setting.batch)
            assert counted.rows == needed, f"{counted.rows} rows instead of {needed}"
            setting.keep(f"ours {name}", latents, counted.rows)
        (latents if autoencoder is None else autoencoder.decode(latents.float())).cpu()

    return step


def their_way(setting: Setting, name: str, checkout: Path) -> Callable[[], None]:
    """A batch of the release's generate.py."""
    device = pick_device()
    torch.backends.cuda.matmul.allow_tf32 = name.endswith("tf32")
    weights = load_file(setting.folder / "weights.safetensors")
    model, sample = release_sampler(checkout, setting.model, weights, setting.sampler)
    counted = Counted(model.to(device))
    vae = None
    if setting.vae:
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(setting.vae).to(device)
    torch.manual_seed(SEED)
    numbers = count()

    @torch.no_grad()
    def step() -> None:
        noise = torch.randn(setting.batch, *LATENT, device=device)
        labels = torch.randint(0, CLASSES, (setting.batch,), device=device)
        latents = sample(counted, noise, labels)
        if next(numbers) == 0:
            setting.keep(name, latents, counted.rows)
        (latents if vae is None else to_uint8(vae.decode(latents.float() / 0.18215).sample)).cpu()

    return step


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def needed_rows(sampler: SamplerOptions, batch: int) -> int:
    """Rows that a model must see: twice the batch at guided steps, once elsewhere."""
    times = torch.linspace(1, 0, sampler.num_steps + 1, dtype=torch.float64)[:-1]
    if sampler.mode == "sde":
        times = torch.linspace(1, 0.04, sampler.num_steps, dtype=torch.float64)
    guided = (times >= sampler.guidance_low) & (times <= sampler.guidance_high)
    return batch * (len(times) + int(guided.sum() if sampler.cfg_scale > 1 else 0))


def row(setting: Setting, way: str, taken: Measured) -> dict[str, Any]:
    """A way's line of the table."""
    latents, rows = setting.kept(way)
    difference = np.abs(latents - setting.kept(REFERENCE)[0])
    return {
        "way": way,
        "images_per_second": setting.batch / taken.median,
        "seconds": taken.median,
        "first_batch_seconds": taken.first,
        "peak_bytes": taken.peak,
        "rows_per_image": rows / setting.batch,
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
    }


def report(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'':20}{'images/s':>9}{'ratio':>7}{'peak':>10}{'rows/image':>12}{'first batch':>13}"
        f"{'difference: max':>17}{'mean':>9}"
    )
    for line in rows:
        print(
            f"{line['way']:20}{line['images_per_second']:9.3f}{line['ratio']:7.2f}"
            f"{line['peak_bytes'] / 2**30:6.1f} GiB{line['rows_per_image']:12g}"
            f"{line['first_batch_seconds']:11.1f} s{line['max_difference']:17.1e}"
            f"{line['mean_difference']:9.1e}"
        )


if __name__ == "__main__":
    main()
