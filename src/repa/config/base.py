"""What the options of all commands share."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "no", "fp16", "bf16"]
# PyTorch's generators take 64 bits, of which the release's seeding of processes needs some.
Seed = Annotated[int, Field(ge=0, lt=2**48)]
T = TypeVar("T")


def _several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


# One or more values after a flag; in a recipe a list, or one value by itself.
Several = Annotated[tuple[T, ...], BeforeValidator(_several), Field(min_length=1)]
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
