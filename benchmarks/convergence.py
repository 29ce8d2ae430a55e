"""Does alignment make training converge sooner? Plain and aligned runs on CIFAR-10, judged alike.

    python benchmarks/convergence.py --train cifar10-train.zip --test cifar10-test.zip [--out DIR]

1. prepares both sets as pixels, with the tokens of the target encoders;
2. trains a classifier from scratch: a judge that knows the classes, besides an ImageNet network;
3. trains each arm with each seed: the plain recipe, the aligned one, and with `--vary OPTIONS` the
   aligned one with other options;
4. draws samples from every checkpoint, from equal noise, and measures them with both judges against
   the training images, those of the last checkpoint against the test images too;
5. looks for the training images that the final samples are nearest to;
6. probes hidden states, compares them with the encoders, and writes DIR/report/report.html and
   DIR/results.md.

All but the judges' preparation is commands of repa, which are printed. Started again, it goes on
where it was.
`--enc-type dinov2-vit-b` aligns to another encoder than the recipe's.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from classifier import EPOCHS, train_classifier
from convergence_results import write_results

from repa.checkpoints.folder import list_checkpoints
from repa.cli import main as run_command
from repa.devices import pick_device
from repa.evaluation.networks import create_network
from repa.evaluation.reference import load_reference
from repa.evaluation.statistics import save_reference
from repa.files import write_atomically

RECIPES = Path(__file__).parents[1] / "configs" / "cifar10"
JUDGES = ("efficientnet-lite2", "classifier")
RESOLUTION = 32
AS_PIXELS = ("--resolution", RESOLUTION, "--autoencoder", "pixel")


@dataclass(frozen=True)
class Arm:
    """Runs that differ by their seed alone: a recipe of `repa train`, and options besides."""

    name: str
    recipe: Path
    options: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, object]:
        """The recipe's options and those besides, by name."""
        named = dict(zip(self.options[::2], self.options[1::2], strict=True))
        changed = {key.removeprefix("--").replace("-", "_"): v for key, v in named.items()}
        return yaml.safe_load(self.recipe.read_text()) | changed


@dataclass(frozen=True)
class Layout:
    """Where everything lies."""

    out: Path

    @property
    def train(self) -> Path:
        return self.out / "data" / "train"

    @property
    def test(self) -> Path:
        return self.out / "data" / "test"

    @property
    def classifier(self) -> Path:
        return self.out / "classifier.safetensors"

    def run(self, arm: Arm, seed: int) -> Path:
        return self.out / "runs" / f"{arm.name}-seed{seed}"

    def reference(self, split: str, judge: str) -> Path:
        return self.out / "references" / f"{split}-{judge}.npz"

    def samples(self, checkpoint: Path) -> Path:
        run, step = checkpoint.parent.parent.name, checkpoint.name
        return self.out / "samples" / f"{run}-{step}.npz"

    def evaluation(self, checkpoint: Path, split: str, judge: str) -> Path:
        name = f"{checkpoint.name}-{judge}-{split}.json"
        return checkpoint.parent.parent / "evaluations" / name

    def nearest(self, name: str) -> Path:
        return self.out / "nearest" / f"{name}.json"


def main() -> None:
    options = parse()
    layout = Layout(options.out)
    arms = list(make_arms(options))
    prepare(options, layout, arms)
    judge(options, layout)
    for seed in options.seeds:  # whole pairs first, should it be stopped
        for arm in arms:
            train(options, layout, arm, seed)
    runs = [layout.run(arm, seed) for seed in options.seeds for arm in arms]
    for run in runs:
        measure(options, layout, run)
    for run in runs[: len(arms)]:
        find_nearest(options, layout, run)
    analyze(options, layout, runs)
    # Another arm may have joined the runs of the report that is there.
    repa("report", *runs, "--analysis", layout.out / "analysis", "--output-dir",
         layout.out / "report", "--title", "Alignment on CIFAR-10", "--overwrite")  # fmt: skip
    write_results(layout.out, runs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", required=True, help="images to train on, as repa prepare takes")
    parser.add_argument("--test", required=True, help="images to test with")
    parser.add_argument("--out", type=Path, default=Path("convergence"))
    parser.add_argument("--plain", type=Path, default=RECIPES / "plain.yaml")
    parser.add_argument("--repa", type=Path, default=RECIPES / "repa.yaml")
    parser.add_argument("--enc-type", help="target of the aligned runs, instead of the recipe's")
    parser.add_argument("--vary", action="append", default=[], metavar="OPTIONS",
                        help="one more arm: the aligned recipe with these options")  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--samples", type=int, default=10_000, help="of each checkpoint")
    parser.add_argument("--sampler-steps", type=int, default=50, help="Euler, without guidance")
    parser.add_argument("--reference-images", type=int, help="of each set; by default all")
    parser.add_argument("--classifier-epochs", type=int, default=EPOCHS)
    parser.add_argument("--analysis-images", type=int, default=10_000,
                        help="that are looked at; twice as many train the probes")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"))
    return parser.parse_args()


def make_arms(options: argparse.Namespace) -> Iterator[Arm]:
    target = ("--enc-type", options.enc_type) if options.enc_type else ()
    yield Arm("plain", options.plain)
    yield Arm("repa", options.repa, target)
    for text in options.vary:
        words = tuple(shlex.split(text))
        if len(words) % 2:
            raise SystemExit(f"--vary {text!r}: expected options of repa train, each with a value")
        values = [word.replace("/", "-").replace(",", "+") for word in words[1::2]]
        yield Arm("repa-" + "-".join(values), options.repa, target + words)


def repa(*arguments: object) -> None:
    """Runs a command of repa, having printed it."""
    words = [str(argument) for argument in arguments]
    print("\n$ repa", shlex.join(words), flush=True)
    if run_command(words):
        raise SystemExit(1)


def prepare(options: argparse.Namespace, layout: Layout, arms: list[Arm]) -> None:
    """Both sets as pixels; the training set with the targets, and how long these took."""
    names = [str(arm.settings["enc_type"]).split(",") for arm in arms]
    targets = dict.fromkeys(name for each in names for name in each if name != "none")
    grid = RESOLUTION // int(str(arms[0].settings["model"]).rpartition("/")[2])
    for split, dest in (("train", layout.train), ("test", layout.test)):
        repa("prepare", *source(options, split), "--dest", dest, *AS_PIXELS)
    seconds_file = layout.out / "target_seconds.json"
    seconds = json.loads(seconds_file.read_text()) if seconds_file.exists() else {}
    for name in targets:
        if name in seconds or name == "pixels":  # which costs nothing to compute
            continue
        started = time.perf_counter()
        repa("prepare", "--dest", layout.train, "--enc-type", name, "--feature-grid", grid,
             "--mixed-precision", "auto", *device(options))  # fmt: skip
        seconds[name] = round(time.perf_counter() - started, 1)
    write_atomically(seconds_file, json.dumps(seconds).encode())


def judge(options: argparse.Namespace, layout: Layout) -> None:
    """The classifier, and what both judges say of the real images, once for all."""
    if not layout.classifier.exists():
        print("\ntraining the classifier", flush=True)
        train_classifier(
            layout.train, layout.test, layout.classifier, options.classifier_epochs,
            device=options.device,
        )  # fmt: skip
    for split, whole in (("train", layout.train), ("test", layout.test)):
        images = whole
        if options.reference_images:
            images = layout.out / "data" / f"{split}-{options.reference_images}"
            repa("prepare", *source(options, split), "--dest", images, *AS_PIXELS,
                 "--max-images", options.reference_images)  # fmt: skip
        for name in JUDGES:
            path = layout.reference(split, name)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                place = pick_device(options.device)
                weights = layout.classifier if name == "classifier" else None
                network = create_network(name, weights).to(place)
                save_reference(path, load_reference(images, network, place), network)


def train(options: argparse.Namespace, layout: Layout, arm: Arm, seed: int) -> None:
    run = layout.run(arm, seed)
    repa("train", "--config", arm.recipe, *arm.options, "--seed", seed, "--data-dir", layout.train,
         "--output-dir", run.parent, "--exp-name", run.name, "--report-to", "none",
         *device(options))  # fmt: skip


def measure(options: argparse.Namespace, layout: Layout, run: Path) -> None:
    """Samples of every checkpoint, and what the judges say of them."""
    checkpoints = list_checkpoints(run)
    for checkpoint in checkpoints:
        samples = layout.samples(checkpoint)
        splits = ("train", "test") if checkpoint == checkpoints[-1] else ("train",)
        wanted = {(split, name): layout.evaluation(checkpoint, split, name)
                  for split in splits for name in JUDGES}  # fmt: skip
        if all(path.exists() for path in wanted.values()):
            continue
        repa("sample", "--ckpt", checkpoint, "--sample-dir", samples.with_suffix(""),
             "--num-fid-samples", options.samples, "--classes", "balanced", "--num-steps",
             options.sampler_steps, "--mixed-precision", "auto", "--per-proc-batch-size", 100,
             *attention(options), *device(options))  # fmt: skip
        for (split, name), path in wanted.items():
            if not path.exists():
                repa("evaluate", "--samples", samples, "--reference",
                     layout.reference(split, name), *network(layout, name), "--output", path,
                     *device(options))  # fmt: skip


def find_nearest(options: argparse.Namespace, layout: Layout, run: Path) -> None:
    """Final samples beside their nearest training images; the test images, which no model drew."""
    final = layout.samples(list_checkpoints(run)[-1])
    for name, images in ((run.name, final), ("test", layout.test)):
        path = layout.nearest(name)
        if not path.exists():
            repa("evaluate", "--samples", images, "--reference", layout.train,
                 *network(layout, "classifier"), "--nearest", path.with_suffix(".png"), "--output",
                 path, *device(options))  # fmt: skip


def analyze(options: argparse.Namespace, layout: Layout, runs: list[Path]) -> None:
    common = ("--ckpt", *runs, "--every-checkpoint", "--times", 0.5, "--mixed-precision", "auto",
              "--output-dir", layout.out / "analysis", *device(options))  # fmt: skip
    count = options.analysis_images
    repa("probe", *common, "--data-dir", layout.train, "--val-dir", layout.test,
         "--train-images", 2 * count, "--val-images", count)  # fmt: skip
    repa("align", *common, "--data-dir", layout.test, "--num-images", count)


def source(options: argparse.Namespace, split: str) -> tuple[str, ...]:
    """The images of a split; a Hugging Face dataset may be given for both."""
    name = getattr(options, split)
    return ("--source", name, *(("--split", split) if name.startswith("hf:") else ()))


def network(layout: Layout, name: str) -> tuple[object, ...]:
    weights = ("--network-weights", layout.classifier) if name == "classifier" else ()
    return ("--network", name, *weights)


def attention(options: argparse.Namespace) -> tuple[str, ...]:
    """Explicit attention is faster for short sequences on CPUs (benchmarks/cpu_choices.py)."""
    return ("--no-fused-attn",) if pick_device(options.device).type == "cpu" else ()


def device(options: argparse.Namespace) -> tuple[object, ...]:
    return ("--device", options.device) if options.device else ()


if __name__ == "__main__":
    main()
