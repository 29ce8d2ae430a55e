"""Figures for reports: curves as SVG, image grids as PNG, both as data URIs."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from repa.sampling import save_grid

# Okabe and Ito's colors, told apart by color-blind readers; lines also differ in dash and marker.
STYLES: list[dict[str, Any]] = [
    {"color": "#5b6770", "linestyle": "--", "marker": "s"},
    {"color": "#d55e00", "linestyle": "-", "marker": "o"},
    {"color": "#0072b2", "linestyle": "-.", "marker": "^"},
]

Curve = tuple[Sequence[float], Sequence[float]]


def curves_svg(curves: Mapping[str, Curve], x_label: str, y_label: str) -> str:
    """A line plot as a data URI.

    Args:
        curves: name: (x values, y values); empty ones are left out.
        x_label, y_label: of the axes.
    """
    figure = Figure(figsize=(5.2, 3.3), layout="constrained")
    axes = figure.subplots()
    for (name, (x, y)), style in zip(curves.items(), STYLES, strict=False):
        if len(x) == 0:
            continue
        marker = style["marker"] if len(x) <= 12 else ""
        axes.plot(x, y, **(style | {"marker": marker}), label=name, linewidth=2)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "repa", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _data_uri("image/svg+xml", buffer.getvalue().encode())


def grid_png(images: Tensor, columns: int = 8) -> str:
    """Images (N, 3, R, R) uint8 in one PNG, as a data URI."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.png"
        save_grid(images, path, columns)
        return _data_uri("image/png", path.read_bytes())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
