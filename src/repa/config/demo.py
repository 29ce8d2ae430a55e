"""Options of `repa demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from repa.config.base import RunOptions


class DemoOptions(RunOptions):
    """Train small models on emoji, plain and with REPA or from names, and report what they did."""

    out: Path = Field(
        Path("repa-demo"),
        description="folder of everything the demo makes; with --text repa-demo-text",
    )
    text: bool = Field(False, description="draw emoji from their names (MMDiT) instead of by class")
    steps: PositiveInt | None = Field(
        None,
        description="training steps of each run; by default 800 of the two, or 2,500 with --text",
    )
    num_samples: Annotated[int, Field(ge=8)] = Field(800, description="images sampled from each")
