"""Sampling: only the model evaluations that are needed, and no projection heads.

    python benchmarks/sampling.py [--against RELEASE] [--model SiT-B/2] [--batch 2] [--steps 10]
        [--scale 1.8] [--low 0] [--high 0.7] [--rounds 3] [--json OUT]

The SDE sampler with guidance on an interval, against the plain way: guidance at every step. The
rows that the model sees are counted and must be those that the interval asks for. With
`--against` (a checkout of the release) its own model, with a head, and sampler run on the same
weights and noise. Ways alternate in one process; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from timing import medians
from torch import Tensor, nn

from repa.config import SamplerOptions
from repa.diffusion import FlowMatching
from repa.models import Transformer, create_model
from repa.sampling.generate import generate_latents


class FixedNoise:
    """The same numbers for every way."""

    def __init__(self, noises: Tensor):
        self.noises = noises

    def initial(self) -> Tensor:
        return self.noises[0]

    def step(self, step: int) -> Tensor:
        return self.noises[step + 1]


class Counter:
    """How many rows a model is given."""

    def __init__(self, model: nn.Module):
        self.rows = 0
        model.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.rows += len(inputs[0])


def needed_rows(sampler: SamplerOptions, batch: int) -> int:
    """Rows that the SDE needs: twice the batch at guided steps, once elsewhere."""
    times = torch.linspace(1, 0.04, sampler.num_steps, dtype=torch.float64)
    guided = (times >= sampler.guidance_low) & (times <= sampler.guidance_high)
    return batch * (len(times) + int(guided.sum()))


def release_model(checkout: Path, name: str, model: Transformer) -> nn.Module:
    """The release's model with our weights and a head as of DINOv2-B."""
    sys.path.insert(0, str(checkout))
    from models.sit import SiT_models  # type: ignore[import-not-found]

    theirs = SiT_models[name](
        input_size=model.input_size, num_classes=model.num_classes, use_cfg=True,
        z_dims=[768], encoder_depth=8, fused_attn=True, qk_norm=False,
    )  # fmt: skip
    lacking = theirs.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert all(key.startswith("projectors.") for key in lacking), lacking
    return theirs.eval().to(model.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, help="checkout of the release")
    parser.add_argument("--model", default="SiT-B/2")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--scale", type=float, default=1.8)
    parser.add_argument("--low", type=float, default=0.0)
    parser.add_argument("--high", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))

    torch.manual_seed(0)
    model = create_model(arguments.model, input_size=32, in_channels=4, num_classes=1000)
    for parameter in model.parameters():
        if parameter.abs().sum() == 0:  # zero at the start: the output would be zero, too
            nn.init.normal_(parameter, std=0.02)
    model = model.eval().to(device)
    noises = torch.randn(arguments.steps + 1, arguments.batch, 4, 32, 32).to(device)
    labels = torch.randint(0, 1000, (arguments.batch,))
    interval = SamplerOptions(
        mode="sde",
        num_steps=arguments.steps,
        cfg_scale=arguments.scale,
        guidance_low=arguments.low,
        guidance_high=arguments.high,
    )
    everywhere = interval.model_copy(update={"guidance_low": 0.0, "guidance_high": 1.0})
    samples: dict[str, Tensor] = {}

    def ours(name: str, sampler: SamplerOptions) -> None:
        noise = FixedNoise(noises)
        samples[name] = generate_latents(model, labels, noise, sampler, FlowMatching()).cpu()

    counted = Counter(model)
    ours("interval", interval)
    assert counted.rows == needed_rows(interval, arguments.batch), counted.rows
    rows = {"interval": counted.rows, "everywhere": needed_rows(everywhere, arguments.batch)}
    ways = {
        "interval": lambda: ours("interval", interval),
        "everywhere": lambda: ours("everywhere", everywhere),
    }

    if arguments.against is not None:
        theirs = release_model(arguments.against, arguments.model, model)
        from samplers import euler_maruyama_sampler  # type: ignore[import-not-found]

        def release() -> None:
            torch.manual_seed(1)
            with torch.no_grad():
                samples["release"] = euler_maruyama_sampler(
                    theirs, noises[0], labels.to(device), num_steps=arguments.steps,
                    cfg_scale=arguments.scale, guidance_low=arguments.low,
                    guidance_high=arguments.high, path_type="linear",
                ).cpu()  # fmt: skip

        counted = Counter(theirs)
        release()
        rows["release"] = counted.rows
        ways["release"] = release

    seconds = medians(ways, arguments.rounds)
    result = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
        "seconds": seconds,
        "images_per_second": {name: arguments.batch / time for name, time in seconds.items()},
    }
    for name, time in seconds.items():
        print(
            f"{name:12}{rows[name]:6} rows, {time:7.2f} s, {arguments.batch / time:6.2f} images/s, "
            f"{time / seconds['interval']:.2f} x the interval's time"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
