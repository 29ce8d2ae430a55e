"""Sample grids over training: the same noise and classes in all runs, moved by one slider."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from repa.errors import RepaError
from repa.report.charts import shown
from repa.report.html import data_uri
from repa.report.runs import RunRecord

STEPS = 12  # at most on the slider
PICTURES = 72  # at most on the page: with many runs, fewer steps
PIXEL_ART = 320  # pictures up to this width stay as they are, and keep their pixels when enlarged
WIDTH = 1024  # of larger ones at most
QUALITY = 85


def sample_grids(runs: Sequence[RunRecord], real_images: Path | None = None) -> str:
    """The previews of all runs side by side with a slider over their steps, and real images.

    Raises:
        RepaError: if a picture cannot be read.
    """
    steps = shown_steps(runs)
    figures = [_frames(run, steps) for run in runs if run.previews] if steps else []
    if real_images is not None:
        figures.append(
            "<figure><figcaption>Real images</figcaption>"
            f"{_image(real_images, 'grid of real images')}</figure>"
        )
    if not figures:
        return ""
    return _slider(steps) + f'<div class="grids">{"".join(figures)}</div>'


def shown_steps(runs: Sequence[RunRecord]) -> list[int]:
    """Steps of previews of any run, evenly chosen, with the first and the last."""
    steps = sorted({step for run in runs for step in run.previews})
    most = max(2, min(STEPS, PICTURES // max(1, len(runs))))
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _slider(steps: Sequence[int]) -> str:
    """Hidden where scripts do not run: then each run shows its last grid."""
    if len(steps) < 2:
        return ""
    numbers = " ".join(map(str, steps))
    last = len(steps) - 1
    return (
        '<div class="slider" hidden><label for="step">Training step</label>'
        f'<input id="step" type="range" min="0" max="{last}" value="{last}" '
        f'data-steps="{numbers}" autocomplete="off">'
        f'<output for="step" aria-live="polite">step {shown(steps[-1])}</output></div>'
    )


def _frames(run: RunRecord, steps: Sequence[int]) -> str:
    """A run's grids, each from the slider's place on where it is the newest; the last is seen."""
    frames: list[tuple[int, str]] = []
    previous = None
    for place, step in enumerate(steps):
        own = max((s for s in run.previews if s <= step), default=None)
        if own is None and place == 0:
            frames.append((place, f"<p>No grid before step {shown(min(run.previews))}.</p>"))
        elif own is not None and own != previous:
            alt = f"grid of samples of {run.name} at step {shown(own)}"
            picture = _image(run.previews[own], alt)
            frames.append((place, f'{picture}<p class="note">step {shown(own)}</p>'))
            previous = own
    shown_frames = "".join(
        f'<div class="frame" data-from="{place}"{" hidden" if i < len(frames) - 1 else ""}>'
        f"{body}</div>"
        for i, (place, body) in enumerate(frames)
    )
    return (
        f"<figure><figcaption>{escape(run.name)}</figcaption>"
        f'<div class="frames">{shown_frames}</div></figure>'
    )


def _image(path: Path, alt: str) -> str:
    """The picture inside the page: as it is if it is small, else reduced, as WebP."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            size, is_small = image.size, image.width <= PIXEL_ART and image.format == "PNG"
            if not is_small:
                data, size = _reduced(image)
    # What Pillow raises for damaged files, and for those that would fill the memory.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RepaError(f"cannot read the picture {path}: {error}") from None
    uri = data_uri("image/png" if is_small else "image/webp", data)
    pixels = ' class="pixels"' if is_small else ""
    return (
        f'<img{pixels} src="{uri}" '
        f'width="{size[0]}" height="{size[1]}" alt="{escape(alt)}" decoding="async">'
    )


def _reduced(image: Image.Image) -> tuple[bytes, tuple[int, int]]:
    """A WebP file, and its size."""
    image = image.convert("RGB")
    image.thumbnail((WIDTH, image.height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY)
    return file.getvalue(), image.size
