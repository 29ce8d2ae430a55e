"""What was drawn for texts, beside the real images of these texts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from repa.report.html import data_uri, heading, paragraph

SCALE = 3  # of small pictures, whose pixels stay sharp


@dataclass(frozen=True)
class Drawing:
    """One text and what was drawn for it.

    Attributes:
        prompt: the text.
        image: what was drawn, (H, W, 3) uint8.
        real: the text's own real image, of the same shape, if there is one.
        held_out: whether its real image was not trained on.
    """

    prompt: str
    image: np.ndarray
    real: np.ndarray | None = None
    held_out: bool = False


def drawings_html(found: Sequence[Drawing]) -> str:
    """Each text with its pictures, those that were trained on first."""
    real = [d for d in found if d.real is not None]
    kinds = {
        "Texts that it was trained with": [d for d in real if not d.held_out],
        "Held-out texts: no image of them was trained on": [d for d in real if d.held_out],
        "Other texts, which have no real image": [d for d in found if d.real is None],
    }
    parts = [paragraph("Left what was drawn, right the real image.", "note")] if real else []
    for title, own in kinds.items():
        if own:
            figures = "".join(map(_figure, own))
            parts.append(f'{heading(title)}<div class="drawings">{figures}</div>')
    return "".join(parts)


def _figure(drawing: Drawing) -> str:
    pictures = _image(drawing.image, f"drawn for: {drawing.prompt}")
    if drawing.real is not None:
        pictures += _image(drawing.real, f"real image of: {drawing.prompt}")
    return f"<figure>{pictures}<figcaption>{escape(drawing.prompt)}</figcaption></figure>"


def _image(pixels: np.ndarray, alt: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    height, width = pixels.shape[:2]
    return (
        f'<img class="pixels" src="{data_uri("image/png", file.getvalue())}" '
        f'width="{SCALE * width}" height="{SCALE * height}" alt="{escape(alt)}">'
    )
