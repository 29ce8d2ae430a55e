"""What the options of all commands share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "no", "fp16", "bf16"]
# PyTorch's generators take 64 bits, of which the release's seeding of processes needs some.
Seed = Annotated[int, Field(ge=0, lt=2**48)]
PRECISION = (
    "mixed precision; auto is bf16 where the hardware has it, else fp16 on CUDA and none on CPU"
)


class Options(BaseModel):
    """Base of the groups: unknown names are errors, values never change after validation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class DeviceOptions(Options):
    """Machine"""

    device: Literal["cpu", "cuda"] | None = Field(
        None, description="by default cuda where there is one, else cpu"
    )


class RunOptions(DeviceOptions):
    """Randomness"""

    seed: Seed = Field(0, description="of everything random")
