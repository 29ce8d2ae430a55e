"""The model card: what a published model's page says."""

from __future__ import annotations

from repa.checkpoints.families import family_of
from repa.checkpoints.folder import CheckpointState
from repa.diffusion.schedule import NUM_STEPS
from repa.models import FAMILIES

# Options that change what the model has learned, in the order of the table. Paths of the machine
# that trained it are none of them.
SHOWN = (
    "enc_type",
    "encoder_depth",
    "proj_coeff",
    "projector_dim",
    "projection_layer_type",
    "projection_loss_type",
    "target_norm",
    "path_type",
    "prediction",
    "weighting",
    "cfg_prob",
    "batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "adam_beta1",
    "adam_beta2",
    "adam_weight_decay",
    "max_grad_norm",
    "ema_decay",
    "mixed_precision",
    "seed",
)
OBJECTIVES = {"flow": "flow matching", "ddpm": "denoising diffusion"}
FLOW_ONLY = ("path_type", "weighting")

CARD = """\
---
library_name: repa
pipeline_tag: unconditional-image-generation
# license: choose one before you publish
tags:
{tags}
---

# {name}

{name} for {pixels} of {resolution} x {resolution} pixels in {classes} classes, after {step} \
training steps{alignment}. The weights are averaged over training.

## Use

```
repa sample --ckpt FOLDER --num-fid-samples 16
```

```python
import torch
from repa.models import {family}

model = {family}.from_pretrained("FOLDER_OR_REPOSITORY")
x = torch.randn(1, {shape})
prediction = model(x, torch.tensor([{noisiest}]), torch.tensor([0]))
```

{output}

## Architecture

| | |
|---|---|
{architecture}

## Training

| option | |
|---|---|
{options}

## Citation

```bibtex
@inproceedings{{yu2025repa,
  title={{Representation Alignment for Generation: Training Diffusion Transformers Is Easier Than \
You Think}},
  author={{Sihyun Yu and Sangkyung Kwak and Huiwon Jang and Jongheon Jeong and Jonathan Huang and \
Jinwoo Shin and Saining Xie}},
  booktitle={{International Conference on Learning Representations}},
  year={{2025}}
}}
```
"""


def model_card(state: CheckpointState) -> str:
    """README.md of a published model, with the header that the Hugging Face hub reads."""
    family = family_of(state.model)
    model_class, sizes = FAMILIES[family]
    size = state.model.partition("-")[2].partition("/")[0]
    depth, width, heads = sizes[size]
    encoders = state.options.get("enc_type", "none")
    aligned = encoders not in (None, "none", "None")
    channels, height, side = state.autoencoder.latent_shape
    architecture = {
        "model": state.model,
        "blocks, width, heads": f"{depth}, {width}, {heads}",
        "autoencoder": state.autoencoder.name,
        "input": f"{channels} x {height} x {side}",
        **state.model_arguments,
    }
    options = {key: state.options[key] for key in SHOWN if key in state.options}
    objective = OBJECTIVES[model_class.objective]
    if model_class.objective != "flow":
        options = {key: value for key, value in options.items() if key not in FLOW_ONLY}
    tags = ["repa", "diffusion", objective.replace(" ", "-"), "image-generation", family.lower()]
    return CARD.format(
        tags="\n".join(f"- {tag}" for tag in tags),
        name=state.model,
        family=family,
        pixels="images" if state.autoencoder.name == "pixel" else "latents of images",
        resolution=state.resolution,
        classes=state.model_arguments["num_classes"],
        step=f"{state.step:,}" if state.step else "an unknown number of",
        alignment=f" aligned with {encoders}" if aligned else "",
        shape=f"{channels}, {height}, {side}",
        output=_output(model_class.objective, state),
        noisiest=1.0 if model_class.objective == "flow" else NUM_STEPS - 1,
        architecture=_rows(architecture),
        options=_rows(options),
    )


def _output(objective: str, state: CheckpointState) -> str:
    """What the model returns, and what its times are."""
    if objective == "ddpm":
        return (
            "Times are the steps 0 (almost data) to 999 (almost noise) of DDPM. The prediction is "
            "the noise, then what its learned variance is made from (`repa.diffusion.DDPM`)."
        )
    predicted = {"v": "velocity", "eps": "noise", "x": "data"}[state.options.get("prediction", "v")]
    return (
        f"Times are from 0 (data) to 1 (noise). The prediction is the {predicted} "
        "(`repa.diffusion.FlowMatching`)."
    )


def _rows(entries: dict[str, object]) -> str:
    return "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in entries.items())
