"""`repa sample`: a checkpoint to an npz of images, on any number of processes."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from repa.autoencoders import Autoencoder, create_autoencoder
from repa.checkpoints import CheckpointState, load_model, locate, objective_of
from repa.config import DrawOptions, Precision, SampleOptions
from repa.devices import pick_precision
from repa.diffusion import Objective
from repa.errors import RepaError
from repa.models import Backbone, SiT, Transformer
from repa.models.layers import Attention
from repa.models.mmdit import JointBlock
from repa.processes import on_main, start_processes
from repa.sampling.archive import SampleArchive
from repa.sampling.batches import SampleBatch, image_batches, official_batches
from repa.sampling.generate import (
    RELEASED_GUIDED_CHANNELS,
    cast_weights,
    generate_latents,
    latent_shape,
    pick_mode,
)
from repa.sampling.noise import OfficialStream
from repa.sampling.transfer import Fetched
from repa.sampling.wanted import Condition, Wanted, choose_wanted
from repa.weights import fingerprint

WRITERS = 4  # threads that write finished batches while the next is drawn


def run_sample(options: SampleOptions) -> None:
    """Draws `--num-fid-samples` images into NAME.npz and, if asked for, NAME/*.png.

    Raises:
        RepaError: if the checkpoint, a class, the autoencoder or the destination does not fit.
    """
    processes = start_processes(options.device)
    model, state = open_model(options, options.ckpt, processes)
    draw_samples(options, options.sample_dir, model, state, processes)


def open_model(
    options: DrawOptions, ckpt: Path, processes: PartialState
) -> tuple[Backbone, CheckpointState]:
    """The backbone of `ckpt`, with what is known of it."""
    with processes.main_process_first():  # the others wait while one downloads it
        ckpt = locate(ckpt)
    return load_model(ckpt, options.raw_weights, options.encoder_depth, options.model)


def draw_samples(
    options: DrawOptions,
    name: Path,
    model: Backbone,
    state: CheckpointState,
    processes: PartialState,
) -> None:
    """Draws the images of a model that are not in the archive called `name` yet.

    Args:
        options: what to draw, and how.
        name: path of the archive without suffix.
        model: the backbone.
        state: of its checkpoint.
        processes: this process and the others.

    Raises:
        RepaError: if a class, the autoencoder or the destination does not fit.
    """
    objective = objective_of(model, state, options.path_type, options.prediction)
    options = options.model_copy(update={"mode": pick_mode(objective, options)})
    if processes.is_main_process:
        _note_without_effect(options, model)
    if options.seeding == "official" and not isinstance(model, SiT):
        raise RepaError(f"--seeding official: the release draws no {state.model}")
    device = processes.device
    precision = pick_precision(options.mixed_precision, device)
    torch.backends.cuda.matmul.allow_tf32 = options.allow_tf32
    # Half precision is no reason to decode in full precision, which is many times slower.
    torch.backends.cudnn.allow_tf32 = options.allow_tf32 or precision != "no"
    autoencoder = create_autoencoder(_autoencoder_name(options, state), device)
    if autoencoder.latent_shape(state.resolution) != latent_shape(model):
        raise RepaError(
            f"autoencoder {autoencoder.name} makes latents of "
            f"{autoencoder.latent_shape(state.resolution)}; the model has {latent_shape(model)}"
        )
    wanted = choose_wanted(options, model, state, processes)
    if processes.is_main_process and wanted.prompts is not None and (cut := wanted.prompts.cut()):
        print(f"note: {cut}", file=sys.stderr)
    request = _request(options, model, state, objective, autoencoder, wanted, precision, processes)
    archive = SampleArchive(name, request, len(wanted.labels), options.png)
    with ExitStack() as stack:
        on_main(processes, lambda: stack.enter_context(archive.alone()))
        on_main(processes, lambda: archive.begin(options.overwrite))
        if not archive.complete:
            missing = archive.missing()
            processes.wait_for_everyone()  # all have looked before anyone adds to it
            model = _ready(model, options, device, precision)
            batches = _batches(options, missing, wanted.labels, model, processes)
            with _progress(len(missing), processes) as progress:
                _draw(
                    batches, model, wanted.condition, autoencoder, archive, options, objective,
                    precision, progress,
                )  # fmt: skip
            processes.wait_for_everyone()
            on_main(processes, archive.finish)
        on_main(processes, lambda: wanted.write_prompts(archive))
    if processes.is_main_process:
        also = f" and {archive.pictures}" if options.png else ""
        print(f"{archive.count} images of step {state.step}: {archive.npz}{also}")


def _autoencoder_name(options: DrawOptions, state: CheckpointState) -> str:
    if options.vae in ("mse", "ema"):
        return f"sd-vae-ft-{options.vae}"
    return options.vae or state.autoencoder.name


def _note_without_effect(options: DrawOptions, model: Backbone) -> None:
    if options.heun and options.mode != "ode":
        print(f"note: --heun has no effect with --mode {options.mode}", file=sys.stderr)
    if options.guide_all_channels and not _guides_more(options, model):
        print("note: --guide-all-channels has no effect here", file=sys.stderr)


def _request(
    options: DrawOptions,
    model: Backbone,
    state: CheckpointState,
    objective: Objective,
    autoencoder: Autoencoder,
    wanted: Wanted,
    precision: Precision,
    processes: PartialState,
) -> dict[str, Any]:
    """All that decides on the images: samples of another request are other samples.

    Its order, too, decides where parts are: what is half drawn could not be finished with another.
    """
    chosen = ("mode", "num_steps", "heun", "cfg_scale", "guidance_low", "guidance_high")
    request: dict[str, Any] = {
        "model": state.model,
        "weights": fingerprint(model.state_dict()),
        "step": state.step,
        **_of_the_process(options, model, objective),
        "autoencoder": autoencoder.name,
        "images": len(wanted.labels),
        "labels": fingerprint({"labels": torch.from_numpy(wanted.labels)}),
        **wanted.record(),
        "seed": options.seed,
        "seeding": options.seeding,
        **{name: getattr(options, name) for name in chosen},
        "precision": precision,
        "tf32": options.allow_tf32,
        "png": options.png,
    }
    if options.seeding == "official":
        request["layout"] = f"{processes.num_processes} x {options.per_proc_batch_size}"
        request["device"] = processes.device.type
    return request


def _of_the_process(options: DrawOptions, model: Backbone, objective: Objective) -> dict[str, Any]:
    if objective.path_type is not None:
        return {"path_type": objective.path_type}
    return {"guide_all_channels": _guides_more(options, model)}


def _guides_more(options: DrawOptions, model: Backbone) -> bool:
    """Whether `--guide-all-channels` makes a difference."""
    has_more = model.objective == "ddpm" and model.in_channels > RELEASED_GUIDED_CHANNELS
    return options.guide_all_channels and options.cfg_scale > 1 and has_more


def _ready(
    model: Backbone, options: DrawOptions, device: torch.device, precision: Precision
) -> Backbone:
    cast_weights(model, precision)
    for module in model.modules():
        if isinstance(module, (Attention, JointBlock)):
            module.fused = options.fused_attn
    model = model.to(device)
    if options.compile:
        model.compile(dynamic=False)
    return model


def _batches(
    options: DrawOptions,
    missing: list[int],
    labels: np.ndarray,
    model: Backbone,
    processes: PartialState,
) -> Iterator[SampleBatch]:
    size, shape, device = options.per_proc_batch_size, latent_shape(model), processes.device
    place = (processes.process_index, processes.num_processes)
    if options.seeding == "image":
        # A compiled model is compiled anew for each size of a batch.
        equal = options.compile
        return image_batches(missing, labels, options.seed, size, shape, device, *place, equal)
    assert isinstance(model, Transformer)  # `draw_samples` refuses texts
    random = OfficialStream(options.seed, *place, (size, *shape), model.num_classes, device)
    step_noises = options.num_steps - 1 if options.mode == "sde" else 0
    own = None if options.classes == "random" else labels
    return official_batches(missing, len(labels), own, random, step_noises, *place)


def _progress(missing: int, processes: PartialState) -> tqdm:
    count = processes.num_processes
    return tqdm(
        total=-(-missing // count),
        unit="image",
        desc="sample" if count == 1 else f"sample, 1 of {count} processes",
        disable=not processes.is_main_process,
    )


def _draw(
    batches: Iterator[SampleBatch],
    model: Backbone,
    condition: Condition,
    autoencoder: Autoencoder,
    archive: SampleArchive,
    options: DrawOptions,
    objective: Objective,
    precision: Precision,
    progress: tqdm,
) -> None:
    """Draws this process's batches; threads write them."""
    ahead = _batches_ahead(model.device)
    drawn: deque[tuple[SampleBatch, Fetched]] = deque()
    writing: deque[Future[None]] = deque()

    def write_first() -> None:
        batch, fetched = drawn.popleft()
        writing.append(pool.submit(archive.add, batch.indices, *_arrived(fetched)))
        if len(writing) > WRITERS:
            writing.popleft().result()
        progress.update(len(batch.indices))

    with ThreadPoolExecutor(WRITERS, "write") as pool:
        for batch in batches:
            latents = generate_latents(
                model, condition(batch.labels), batch.noise, options, objective, precision
            )
            kept = len(batch.indices)
            images = autoencoder.decode(latents[:kept].float())
            finite = latents.isfinite().all()
            drawn.append((batch, Fetched(images, batch.labels[:kept], finite)))
            if len(drawn) > ahead:
                write_first()
        while drawn:
            write_first()
        while writing:
            writing.popleft().result()


def _batches_ahead(device: torch.device) -> int:
    """How many batches are queued behind the one whose images are waited for.

    A GPU has the next one to do meanwhile; elsewhere whatever is queued has been done already.
    """
    return 1 if device.type == "cuda" else 0


def _arrived(fetched: Fetched) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, R, R, 3) and labels (n,) of a batch, once the device has drawn it.

    Raises:
        RepaError: if its latents are not finite.
    """
    images, labels, finite = fetched.wait()
    if not finite:
        raise RepaError(
            "the model's samples are not finite: its weights are broken, or --mixed-precision fp16 "
            "is too coarse for them"
        )
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()), labels.numpy()
