"""Evaluations of runs, and which of them can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from repa.report.charts import count
from repa.report.names import printable
from repa.report.runs import Line, RunRecord

METRICS = {  # key in an evaluation: name, whether higher is better
    "fid": ("FID", False),
    "frechet_distance": ("Fréchet distance", False),
    "fd_dinov2": ("FD-DINOv2", False),
    "sfid": ("sFID", False),
    "kid": ("KID", False),
    "kernel_distance": ("kernel distance", False),
    "cmmd": ("CMMD", False),
    "inception_score": ("inception score", True),
    "precision": ("precision", True),
    "recall": ("recall", True),
    "class_accuracy": ("class accuracy", True),
    "clip_score": ("CLIP score", True),
}
DISTANCES = ("fid", "frechet_distance", "fd_dinov2")  # a network has one of them

DETAILS = {  # of a protocol, in the order in which they are told; what stands where it is not known
    "reference": ("reference {}", "evaluated during training"),
    "sampler": ("{}", "sampler not known"),
    "weights": ("network's weights {:.8}", "network's weights not known"),
    "checksum": ("reference's checksum {:.8}", "reference's checksum not known"),
}


@dataclass(frozen=True)
class Protocol:
    """What makes evaluations comparable.

    Attributes:
        network: its name.
        samples: how many it judged; 0 where it is not told.
        reference: the name of its file or folder; nothing for evaluations during training.
        sampler: how samples were drawn, in words, as far as it is known.
        weights: a checksum of the network's.
        checksum: of the reference.
        details: in words what this one does not share with the others that are there.
    """

    network: str
    samples: int
    reference: str = ""
    sampler: str = ""
    weights: str = ""
    checksum: str = ""
    details: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        samples = (count(self.samples, "sample"),) if self.samples else ()
        return ", ".join((self.network, *samples, *self.details))

    @property
    def parts(self) -> tuple[object, ...]:
        """The same for names of files."""
        return (self.network, self.samples, *self.details)


def protocols(runs: Iterable[RunRecord]) -> list[Protocol]:
    """Those of all evaluations, in order of appearance, each with what tells it from the others."""
    found = list(dict.fromkeys(protocol_of(line) for run in runs for line in run.evaluations))
    told: list[str] = []
    for name in DETAILS:  # one more only if it tells more of them apart
        if _different(found, [*told, name]) > _different(found, told):
            told.append(name)
    return [replace(p, details=tuple(_in_words(p, name) for name in told)) for p in found]


def protocol_of(line: Mapping[str, Any]) -> Protocol:
    """How this evaluation was made."""
    network, samples, reference = (line.get(key) for key in ("network", "samples", "reference"))
    number = samples.get("count") if isinstance(samples, dict) else samples
    number = number if isinstance(number, int) else 0
    if not isinstance(samples, dict):
        return Protocol(str(network), number)
    reference = reference if isinstance(reference, dict) else {}
    return Protocol(
        str(network),
        number,
        printable(PurePath(str(reference.get("path", ""))).name.removesuffix(".npz")),
        sampler(samples.get("drawn")),
        str(line.get("network_weights", "")),
        str(reference.get("sha256", "")),
    )


def sampler(drawn: object) -> str:
    """`ODE in 25 steps, guidance 1.8 on [0, 0.7]`; what the record lacks is left out."""
    drawn = drawn if isinstance(drawn, dict) else {}
    parts = []
    if "mode" in drawn and "num_steps" in drawn:
        heun = " (Heun)" if drawn.get("heun") and drawn["mode"] == "ode" else ""
        parts.append(f"{str(drawn['mode']).upper()}{heun} in {drawn['num_steps']} steps")
    scale, low, high = (drawn.get(k) for k in ("cfg_scale", "guidance_low", "guidance_high"))
    if scale == 1:
        parts.append("no guidance")
    elif scale is not None:
        interval = "" if (low, high) in ((0, 1), (None, None)) else f" on [{low}, {high}]"
        channels = " of all channels" if drawn.get("guide_all_channels") else ""
        parts.append(f"guidance {scale}{interval}{channels}")
    return printable(", ".join(parts))


def evaluations(run: RunRecord, protocol: Protocol) -> list[Line]:
    """A run's evaluations of one protocol, in order of steps."""
    return [line for line in run.evaluations if protocol_of(line) == protocol]


def values(lines: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """A key's values by step, without those that are no finite numbers."""
    found = ((line["step"], line.get(key)) for line in lines)
    return {
        step: value
        for step, value in found
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def distance_of(runs: Iterable[RunRecord], protocol: Protocol) -> str | None:
    """The key of the distance that the protocol's evaluations have."""
    lines = [line for run in runs for line in evaluations(run, protocol)]
    return next((key for key in DISTANCES if values(lines, key)), None)


def _different(found: Sequence[Protocol], names: Sequence[str]) -> int:
    keys = ("network", "samples", *names)
    return len({tuple(getattr(protocol, key) for key in keys) for protocol in found})


def _in_words(protocol: Protocol, name: str) -> str:
    known, unknown = DETAILS[name]
    value = getattr(protocol, name)
    return known.format(value) if value else unknown
