"""The model card: what a published model's page says."""

from __future__ import annotations

from repa.checkpoints.families import CLASS_FAMILIES, family_of, size_of
from repa.checkpoints.null_context import lacks_null_context
from repa.checkpoints.state import CheckpointState
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
    "text_enc_type",
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
pipeline_tag: {pipeline}
# license: choose one before you publish
tags:
{tags}
---

# {name}

{name} for {pixels} of {resolution} x {resolution} pixels {conditions}, after {step} \
training steps{alignment}. The weights are averaged over training.{lack}

## Use

```
repa sample --ckpt FOLDER {drawn}
```

```python
import torch
from repa.models import {family}

model = {family}.from_pretrained("FOLDER_OR_REPOSITORY")
x = torch.randn(1, {shape})
prediction = model(x, torch.tensor([{noisiest}]), {condition})
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
    model_class = FAMILIES[family][0]
    depth, width, heads = size_of(state.model)
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
    if family in CLASS_FAMILIES:
        options.pop("text_enc_type", None)
    tags = ["repa", "diffusion", objective.replace(" ", "-"), "image-generation", family.lower()]
    return CARD.format(
        tags="\n".join(f"- {tag}" for tag in tags),
        name=state.model,
        family=family,
        pixels="images" if state.autoencoder.name == "pixel" else "latents of images",
        resolution=state.resolution,
        **(_of_classes(state) if family in CLASS_FAMILIES else _of_texts(state)),
        step=f"{state.step:,}" if state.step else "an unknown number of",
        alignment=f" aligned with {encoders}" if aligned else "",
        shape=f"{channels}, {height}, {side}",
        output=_output(model_class.objective, state),
        noisiest=1.0 if model_class.objective == "flow" else NUM_STEPS - 1,
        architecture=_rows(architecture),
        options=_rows(options),
    )


def _of_classes(state: CheckpointState) -> dict[str, str]:
    """What the card says of a model whose conditions are classes."""
    return {
        "pipeline": "unconditional-image-generation",
        "conditions": f"in {state.model_arguments['num_classes']} classes",
        "lack": "",
        "drawn": "--num-fid-samples 16",
        "condition": "torch.tensor([0])",
    }


def _of_texts(state: CheckpointState) -> dict[str, str]:
    """What it says of one whose conditions are a text encoder's tokens."""
    length, dim = (state.model_arguments[key] for key in ("context_length", "context_dim"))
    lack = " The empty text's tokens are missing: fill `model.null_context` before guidance."
    return {
        "pipeline": "text-to-image",
        "conditions": "from texts",
        "lack": lack if lacks_null_context(state) else "",
        "drawn": '--prompt "a red heart"',
        "condition": f"torch.randn(1, {length}, {dim})",
    }


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
