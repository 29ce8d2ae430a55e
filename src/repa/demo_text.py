"""`repa demo --text`: emoji drawn from their names, in minutes on two CPU cores.

A user's session in Python: prepare with captions, train MMDiT, draw prompts, measure, report.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from repa.autoencoders import Pixels
from repa.config import DemoOptions, SampleOptions, TrainOptions
from repa.data import PreparedDataset
from repa.data.prepare import prepare
from repa.data.share import Work, spread
from repa.data.sources import open_source
from repa.devices import pick_device, pick_precision
from repa.encoders import create_encoder
from repa.evaluation.extract import extract
from repa.evaluation.networks import create_network
from repa.evaluation.own_image import own_nearer
from repa.files import write_atomically
from repa.report.comparison import Comparison
from repa.report.page import write_report
from repa.report.prompts import Drawing
from repa.report.runs import Analysis, read_runs
from repa.sampling.command import run_sample
from repa.text import create_text_encoder
from repa.training import train

RESOLUTION, GRID_SIZE, ENCODER_DEPTH = 32, 8, 3
TARGET, JUDGE, TEXT = "efficientnet-lite0", "efficientnet-lite2", "minilm"
RUN = "text"
OUT = Path("repa-demo-text")  # unless told otherwise
STEPS = 2500
SAMPLING_STEPS, GUIDANCE = 25, 3.0
BATCH = 100
NAMES = 200  # drawn and measured of each kind, at most
SHOWN = {  # on the page, besides some others
    "train": ("heavy black heart", "cat face", "banana", "airplane"),
    "val": ("green heart", "cat", "house building", "doughnut"),
}
PICTURED = 16  # of each kind
# Drawn besides; no picture is called so.
OTHERS = ("red heart", "blue heart", "green apple", "yellow circle", "red car", "happy face")
CHANCE = 0.5

LEAD = (
    "A small text-to-image transformer (MMDiT) learned to draw emoji from their names. The names' "
    "tokens are {text}'s; its hidden state after block {depth} was aligned to {target}. Another "
    "network, {judge}, says how near a drawing is to the real image of its name: nearer than to "
    "the image of another name in {train:.0%} of cases for names that it was trained with, and in "
    "{val:.0%} for held-out names. Chance is 50%."
)
CREDIT = "Emoji: Twemoji, © Twitter and contributors, CC-BY 4.0."


@dataclass(frozen=True)
class Names:
    """The names of one split, and a real image of each.

    Attributes:
        texts: each once.
        images: (N, 3, R, R) uint8, in their order.
        drawn: which of them are drawn.
    """

    texts: list[str]
    images: np.ndarray
    drawn: list[int]


def run_text_demo(options: DemoOptions) -> None:
    """Prepares emoji with their names, trains, draws, writes `summary.json` and `report.html`.

    Raises:
        RepaError: if the packages of the `demo` extra are missing, or `--out` holds another demo.
    """
    started = time.perf_counter()
    if "out" not in options.model_fields_set:  # beside the other demo
        options = options.model_copy(update={"out": OUT})
    device = pick_device(options.device)

    print(f"1/4 prepare: emoji at {RESOLUTION} px, {TARGET} tokens, names by {TEXT}", flush=True)
    names = {split: _prepare(options, split, device) for split in ("train", "val")}

    print(f"2/4 train: MMDiT-Ti/4, {options.steps or STEPS} steps", flush=True)
    run = train(_train_options(options, device))

    print("3/4 draw: names that it was trained with, and held-out ones", flush=True)
    drawn = {
        split: _draw(options, split, [own.texts[i] for i in own.drawn], device)
        for split, own in names.items()
    }
    others = _draw(options, "others", OTHERS, device)

    print(f"4/4 measure: {JUDGE} compares drawings with the real images", flush=True)
    summary: dict[str, Any] = {
        split: _measure(drawn[split], own, device) for split, own in names.items()
    }
    summary["chance"] = CHANCE
    summary["settings"] = {
        "model": "MMDiT-Ti/4",
        "steps": options.steps or STEPS,
        "seed": options.seed,
        "text_encoder": TEXT,
        "target": TARGET,
        "judge": JUDGE,
        "guidance": GUIDANCE,
        "device": str(device),
        "precision": pick_precision("auto", device),
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_atomically(options.out / "summary.json", json.dumps(summary, indent=1).encode() + b"\n")
    shares = {split: summary[split]["own_nearer"] for split in names}
    records = read_runs([run])
    page = write_report(
        Comparison(records, Analysis()),
        options.out,
        title=f"Emoji drawn from their names after {options.steps or STEPS} steps",
        lead=LEAD.format(text=TEXT, target=TARGET, judge=JUDGE, depth=ENCODER_DEPTH, **shares),
        credit=CREDIT,
        drawings=[
            *(d for split, own in names.items() for d in _pictured(split, drawn[split], own)),
            *(Drawing(text, image) for text, image in zip(OTHERS, others, strict=True)),
        ],
    )
    for split, kind in (("train", "trained names"), ("val", "held-out names")):
        found = summary[split]
        print(
            f"{kind:16} nearer to their own image than to another's: {found['own_nearer']:.1%} "
            f"(chance 50%, {found['names']} names)"
        )
    print(f"\nreport: {page.resolve()}")


def _prepare(options: DemoOptions, split: str, device: torch.device) -> Names:
    encoder = create_encoder(TARGET, RESOLUTION, GRID_SIZE).to(device)
    text = create_text_encoder(TEXT).to(device)
    source, dest = open_source(f"twemoji-{split}"), options.out / "data" / split
    prepare(
        source, dest, RESOLUTION, Pixels(), {TARGET: encoder}, work=Work(device=device),
        text_encoders=[text],
    )  # fmt: skip
    dataset = PreparedDataset(dest)
    # Of pictures that share a name, in all skin tones, the last one is the plain one.
    places = {dataset.captions(i)[0]: i for i in range(len(dataset))}
    texts = sorted(places)
    images = dataset.images([places[name] for name in texts])
    shown = [texts.index(name) for name in SHOWN[split] if name in places]
    others = [i for i in spread(len(texts), NAMES) if i not in shown]
    return Names(texts, images, [*shown, *others][: min(NAMES, options.num_samples)])


def _train_options(options: DemoOptions, device: torch.device) -> TrainOptions:
    steps = options.steps or STEPS
    return TrainOptions(
        exp_name=RUN,
        output_dir=options.out / "runs",
        data_dir=options.out / "data" / "train",
        model="MMDiT-Ti/4",
        text_enc_type=TEXT,
        enc_type=TARGET,
        encoder_depth=ENCODER_DEPTH,
        projector_dim=512,
        max_train_steps=steps,
        batch_size=32,
        learning_rate=1e-3,
        ema_decay=0.99,
        seed=options.seed,
        device=options.device,
        logging_steps=max(1, steps // 30),
        checkpointing_steps=max(1, steps // 4),
        sampling_steps=max(1, steps // 4),
    )


def _draw(
    options: DemoOptions, which: str, texts: Sequence[str], device: torch.device
) -> np.ndarray:
    """The drawings (n, R, R, 3) uint8."""
    name = options.out / "samples" / which
    prompts = name.with_suffix(".txt")
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    run_sample(
        SampleOptions(
            ckpt=options.out / "runs" / RUN,
            sample_dir=name,
            prompts_file=prompts,
            num_steps=SAMPLING_STEPS,
            cfg_scale=GUIDANCE,
            seed=options.seed,
            device=options.device,
            per_proc_batch_size=BATCH,
            mixed_precision="auto",
            overwrite=True,  # of a demo with other names
        )
    )
    with np.load(name.with_suffix(".npz"), allow_pickle=False) as archive:
        return archive["arr_0"]


def _measure(drawn: np.ndarray, names: Names, device: torch.device) -> dict[str, Any]:
    network = create_network(JUDGE).to(device)
    batches = _batches(drawn.transpose(0, 3, 1, 2)), _batches(names.images)
    # Of unit length, so that distances are those of angles: blurred images have small features.
    fake, real = (normalize(extract(network, own, device).features) for own in batches)
    shares = own_nearer(fake, real, names.drawn)
    fake_pixels, real_pixels = (torch.cat(own).flatten(1).float() for own in batches)
    return {
        "own_nearer": shares.mean().item(),
        "standard_error": (shares.std() / len(shares) ** 0.5).item(),
        "own_nearer_in_pixels": own_nearer(fake_pixels, real_pixels, names.drawn).mean().item(),
        "names": len(shares),
        "others": len(names.texts) - 1,
    }


def _batches(images: np.ndarray) -> list[Tensor]:
    tensors = torch.from_numpy(np.ascontiguousarray(images))
    return list(tensors.split(BATCH))


def _pictured(split: str, drawn: np.ndarray, names: Names) -> Sequence[Drawing]:
    shown = len(SHOWN[split])
    rest = range(shown, len(names.drawn))
    chosen = [
        *range(min(shown, len(names.drawn))),
        *(rest[i] for i in spread(len(rest), PICTURED - shown)),
    ]
    return [
        Drawing(
            names.texts[names.drawn[i]],
            drawn[i],
            names.images[names.drawn[i]].transpose(1, 2, 0),
            held_out=split == "val",
        )
        for i in chosen
    ]
