"""The published generate.py: its option names, defaults and names of files."""

from __future__ import annotations

import sys
from pathlib import Path

from repa.autoencoders import HUB_NAMES
from repa.checkpoints import RELEASED_NAME, CheckpointState, objective_of
from repa.config import GenerateOptions
from repa.config.sample import ObsoleteOptions
from repa.errors import RepaError
from repa.models import Transformer
from repa.processes import start_processes
from repa.sampling.command import draw_samples, open_model
from repa.sampling.generate import pick_mode

RELEASED_SAMPLES = "SiT-XL-2-256x256"  # what the release calls samples of its own checkpoint
PUBLISHED_VAE = "ema"  # decodes the published samples, though training data were encoded by mse


def run_generate(options: GenerateOptions) -> None:
    """Draws images as the release's generate.py does, into files named as it names them.

    `SAMPLE_DIR/MODEL-CKPT-size-R-vae-V-cfg-C-seed-S-MODE` followed by `/000000.png` and `.npz`.

    Raises:
        RepaError: as `repa.sampling.command.run_sample`, or if resolution or number of classes are
            not the checkpoint's.
    """
    processes = start_processes(options.device)
    if processes.is_main_process:
        note_obsolete(options)
    ckpt = options.ckpt or RELEASED_NAME
    model, state = open_model(options, ckpt, processes)
    if not isinstance(model, Transformer):
        raise RepaError(f"{ckpt} is a {state.model}, which draws texts: `repa sample --prompt`")
    for option, found in (("resolution", state.resolution), ("num_classes", model.num_classes)):
        wanted = getattr(options, option)
        if wanted not in (None, found):
            raise RepaError(f"--{option.replace('_', '-')} {wanted}: {ckpt} has {found}")
    if options.vae is None and state.autoencoder.name in HUB_NAMES:
        options = options.model_copy(update={"vae": PUBLISHED_VAE})
    mode = pick_mode(objective_of(model, state, options.path_type, options.prediction), options)
    name = options.sample_dir / samples_name(options, state, mode)
    draw_samples(options, name, model, state, processes)


def samples_name(options: GenerateOptions, state: CheckpointState, mode: str) -> str:
    """The release's name for these samples."""
    ckpt = options.ckpt.name.removesuffix(".pt") if options.ckpt else RELEASED_SAMPLES
    vae = Path(options.vae or state.autoencoder.name).name
    return (
        f"{state.model.replace('/', '-')}-{ckpt}-size-{state.resolution}-vae-{vae}-"
        f"cfg-{options.cfg_scale}-seed-{options.seed}-{mode}"
    )


def note_obsolete(options: ObsoleteOptions) -> None:
    """One line for each given option that no longer means anything."""
    for name, field in ObsoleteOptions.model_fields.items():
        if name in options.model_fields_set:
            flag = name.replace("_", "-")
            print(f"note: --{flag} has no effect: {field.description}", file=sys.stderr)
