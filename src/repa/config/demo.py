"""Options of `repa demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from repa.config.base import RunOptions


class DemoOptions(RunOptions):
    """Train a small model on emoji, plain and with REPA, and report what alignment did."""

    out: Path = Field(Path("repa-demo"), description="folder of everything the demo makes")
    steps: PositiveInt = Field(800, description="training steps of each of the two runs")
    num_samples: Annotated[int, Field(ge=8)] = Field(800, description="images sampled from each")
