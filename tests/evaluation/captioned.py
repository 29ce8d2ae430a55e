"""A whole CLIP with small random weights, in the files that OpenAI puts on the hub; prompts."""

import json
from pathlib import Path

import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from repa.data import PreparedDataset
from text.models import save_clip

COUNT, SIDE = 24, 28  # samples; the side of what CLIP sees
LONG = "red heart " * 100


def save_whole_clip(folder: Path, emoji: PreparedDataset) -> Path:
    """Random weights see everything alike, so what they see of emoji is centered."""
    folder = save_clip(folder)
    square = {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square)
    processor.save_pretrained(folder)
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    pixels = processor(list(torch.from_numpy(emoji.images(range(64)))), return_tensors="pt")
    names = [emoji.captions(i)[0] for i in range(64)]
    tokens = tokenizer(names, padding=True, return_tensors="pt")
    with torch.no_grad():
        vision, text = model.vision_model, model.text_model
        vision.post_layernorm.bias -= vision(**pixels).pooler_output.mean(0)
        text.final_layer_norm.bias -= text(**tokens).pooler_output.mean(0)
    model.save_pretrained(folder)
    return folder


def write_lines(path: Path, texts: list[str], indices: list[int] | None = None) -> Path:
    lines = [
        {"index": i, "file": f"{i:06d}.png", "prompt": text}
        for i, text in zip(indices or range(len(texts)), texts, strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
